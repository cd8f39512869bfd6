//! Whom to ask: the routers of one or both controllers.
//!
//! Given one controller's directory, the other controller is asked through its router (`partner/...`), as on a real
//! array, where the partner's socket is out of reach. Given the directory of the whole array, each controller is asked
//! on its own socket, so that one can be looked at while the routers cannot reach each other.

use crate::error::Error;
use pollux_api::error::RpcError;
use pollux_api::id::ControllerId;
use pollux_api::router;
use pollux_runtime::{Client, ControllerConfig, Ctx};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time for a question of which the answer only has to be looked up.
pub const QUESTION: Duration = Duration::from_secs(3);
/// Time for a change.
pub const CHANGE: Duration = Duration::from_secs(60);

/// Both controllers, in their order.
pub const BOTH: [ControllerId; 2] = [ControllerId::A, ControllerId::B];

/// The connections to the array.
pub struct Array {
    direct: BTreeMap<ControllerId, Client>,
    /// Sockets that did not answer, and why.
    pub silent: BTreeMap<ControllerId, String>,
    /// The controller whose view is taken where one is enough.
    pub here: ControllerId,
    dir: PathBuf,
}

/// Where the array is, as the command line says it.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// `--controller`: directory of one controller.
    pub controller: Option<PathBuf>,
    /// `--dir`: directory of the array.
    pub dir: Option<PathBuf>,
    /// `--on`: the controller to ask first.
    pub on: Option<ControllerId>,
}

/// The directory of the controller that a machine is, if it is one: where `pollux setup` writes.
pub const OWN: &str = "/etc/pollux";

impl Place {
    /// The same; where nothing says which controller is meant, it is the one that this machine is, if it is one.
    #[must_use]
    pub fn or_this_machine(mut self) -> Self {
        if self.controller.is_none() && self.dir.is_none() {
            let own = PathBuf::from(OWN);
            self.controller = own.join(pollux_runtime::config::FILE).is_file().then_some(own);
        }
        self
    }

    /// The directory of the array.
    ///
    /// # Errors
    /// Nothing says where it is.
    pub fn array_dir(&self) -> Result<&Path, Error> {
        let beside = self.controller.as_deref().and_then(Path::parent);
        self.dir.as_deref().or(beside).ok_or_else(|| {
            Error::usage(
                "nothing says where the array is",
                "--dir DIR or --controller DIR/a (POLLUX_DIR, POLLUX_CONTROLLER)",
            )
        })
    }

    /// The directory of the one controller that is meant.
    ///
    /// # Errors
    /// Nothing says which.
    pub fn controller_dir(&self) -> Result<PathBuf, Error> {
        match (&self.controller, &self.dir, self.on) {
            (Some(controller), _, _) => Ok(controller.clone()),
            (None, Some(dir), Some(on)) => Ok(dir.join(on.as_str())),
            _ => Err(Error::usage(
                "nothing says which controller this is",
                "--controller DIR/a, or --dir DIR --on a",
            )),
        }
    }

    fn sockets(&self) -> Result<Vec<(Option<ControllerId>, PathBuf)>, Error> {
        let socket = |dir: &Path| dir.join("run").join("router.sock");
        if let (Some(controller), None) = (&self.controller, &self.dir) {
            let file = controller.join(pollux_runtime::config::FILE);
            if !file.is_file() {
                return Err(Error::usage(
                    format!(
                        "{} is no directory of a controller: it has no controller.toml",
                        controller.display()
                    ),
                    "--controller names DIR/a or DIR/b of an array; --dir names DIR",
                ));
            }
            // On a machine of its own the file is in /etc and the socket in /run.
            let config = ControllerConfig::load(&file).map_err(|error| {
                Error::usage(error.to_string(), "a controller.toml as `pollux setup` writes it")
            })?;
            return Ok(vec![(None, config.paths.router_socket())]);
        }
        let dir = self.array_dir()?;
        if !BOTH.iter().any(|id| dir.join(id.as_str()).is_dir()) {
            return Err(Error::usage(
                format!(
                    "{} is no directory of an array: it has neither a nor b",
                    dir.display()
                ),
                "--dir names the directory that pollux-chassis runs in",
            ));
        }
        let own = |id: ControllerId| (Some(id), socket(&dir.join(id.as_str())));
        Ok(BOTH.into_iter().map(own).collect())
    }

    /// Connects to every router that can be reached.
    ///
    /// # Errors
    /// Nothing says where the array is, or nobody answers.
    pub async fn connect(&self) -> Result<Array, Error> {
        let (mut direct, mut silent, mut tried) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        for (id, socket) in self.sockets()? {
            match identify(&socket).await {
                Ok((found, client)) => {
                    direct.insert(found, client);
                }
                Err(why) => {
                    if let Some(id) = id {
                        silent.insert(id, why.clone());
                    }
                    tried.push((socket, why));
                }
            }
        }
        let first = self
            .on
            .filter(|on| direct.contains_key(on))
            .or_else(|| direct.keys().next().copied());
        let Some(here) = first else {
            return Err(Error::Unreachable(tried));
        };
        let dir = self.array_dir()?.to_owned();
        Ok(Array {
            direct,
            silent,
            here: self.on.unwrap_or(here),
            dir,
        })
    }
}

async fn identify(socket: &Path) -> Result<(ControllerId, Client), String> {
    let client = Client::connect(socket).await.map_err(|error| error.to_string())?;
    let status: router::Status = client
        .call(router::STATUS, &(), &Ctx::new(QUESTION))
        .await
        .map_err(|error| error.to_string())?;
    Ok((status.controller, client))
}

impl Array {
    /// Asks a service of one controller, on its own socket or through the other's router.
    ///
    /// # Errors
    /// What it refuses, or why it cannot be asked.
    pub async fn ask<Req, Resp>(
        &self,
        at: ControllerId,
        method: &str,
        request: &Req,
        ctx: &Ctx,
    ) -> Result<Resp, RpcError>
    where
        Req: Serialize + ?Sized,
        Resp: DeserializeOwned,
    {
        if let Some(client) = self.direct.get(&at) {
            return client.call(method, request, ctx).await;
        }
        let client = self
            .direct
            .values()
            .next()
            .expect("an array has at least one connection");
        client.call(&format!("{at}/{method}"), request, ctx).await
    }

    /// Asks for something that only has to be looked up.
    ///
    /// # Errors
    /// As [`Array::ask`].
    pub async fn look<Resp: DeserializeOwned>(
        &self,
        at: ControllerId,
        method: &str,
    ) -> Result<Resp, RpcError> {
        self.ask(at, method, &(), &Ctx::new(QUESTION)).await
    }

    /// A connection, and how a topic of `at` is called on it.
    pub fn topic(&self, at: ControllerId, topic: &str) -> (&Client, String) {
        match self.direct.get(&at) {
            Some(client) => (client, topic.to_owned()),
            None => {
                let client = self
                    .direct
                    .values()
                    .next()
                    .expect("an array has at least one connection");
                (client, format!("{at}/{topic}"))
            }
        }
    }

    /// Directory of the array, as far as it can be known from here.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}
