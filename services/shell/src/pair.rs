//! `pollux pair`: makes two controllers partners, as two telephones are paired.
//!
//! One shows a code and waits at the routers' port, a person types the code on the other one; what then happens is told
//! by [`pollux_pairing::exchange`]. Both controllers are stopped meanwhile: their daemons read the keys when they
//! start, and would go on with the old ones.
//!
//! Keys and lock belong to the daemons' user, so where root calls it, it goes on as that user.
//!
//! The code is read from the standard input and from nowhere else, so it stands in no list of processes, no history of
//! a shell and no environment.

use crate::array::Place;
use crate::error::Error;
use crate::owner;
use crate::resources::Shown;
use pollux_pairing::code::{Code, Ended, GOOD_FOR, TRIES, Watch};
use pollux_pairing::exchange::{self, Me, PairError, Paired, WITHIN};
use pollux_pairing::{Identity, IdentityError, PublicKey};
use pollux_platform::file::{Lock, LockError};
use pollux_platform::keys::KeyStore;
use pollux_runtime::ControllerConfig;
use serde_json::json;
use std::io::{self, BufRead, Write};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

const AGAIN: &str = "begin again on both controllers: pollux pair show, pollux pair enter";

/// This controller, stopped, and its key store.
struct Here {
    config: ControllerConfig,
    identity: Identity,
    _lock: Lock,
}

impl Here {
    fn open(place: &Place) -> Result<Self, Error> {
        let file = place.controller_dir()?.join(pollux_runtime::config::FILE);
        let config = ControllerConfig::load(&file)
            .map_err(|error| Error::usage(error.to_string(), "--controller DIR/a or DIR/b of an array"))?;
        owner::act_as(&config)?;
        let failed = |error: io::Error| {
            let what = format!("{}: {error}", config.paths.run.display());
            Error::failed(what, "the directory must be this user's")
        };
        std::fs::create_dir_all(&config.paths.run).map_err(failed)?;
        // The router's own lock: who holds it pairs, or serves.
        let lock = Lock::acquire(&config.paths.run.join("router.lock")).map_err(|error: LockError| {
            Error::failed(
                error.to_string(),
                "stop this controller's daemons first, and start them afterwards",
            )
        })?;
        let identity = Identity::load_or_make(&config.paths.keys).map_err(key_error)?;
        Ok(Self {
            config,
            identity,
            _lock: lock,
        })
    }

    fn me(&self) -> Me {
        Me {
            controller: self.config.controller,
            array: self.config.array,
        }
    }

    fn keep(&self, paired: &Paired) -> io::Result<()> {
        let store = KeyStore {
            array: self.config.array,
            key: paired.key.clone(),
        };
        store
            .write(&self.config.paths.keys)
            .map_err(|error| io::Error::other(error.to_string()))?;
        paired
            .partner
            .pin(&self.config.paths.keys)
            .map_err(|error| io::Error::other(error.to_string()))
    }

    fn shown(&self, partner: PublicKey) -> Shown {
        let (own, other) = (self.config.controller, self.config.controller.partner());
        Shown {
            text: format!("Controllers {own} and {other} are partners. Start both.\n"),
            json: json!({ "controller": own, "partner": other, "partner_key": partner.to_string() }),
        }
    }
}

fn key_error(error: IdentityError) -> Error {
    Error::failed(error.to_string(), AGAIN)
}

fn ended(error: Ended) -> Error {
    Error::failed(error.to_string(), AGAIN)
}

fn tell(text: &str) {
    // A person who has closed the terminal needs no text.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Shows a code and waits until it is typed on the other controller.
///
/// # Errors
/// The controller runs, the code was wrong three times, or nobody came in time.
pub async fn show(place: &Place) -> Result<Shown, Error> {
    let here = Here::open(place)?;
    let address = here.config.interconnect.router_local();
    let listener = TcpListener::bind(address).await.map_err(|error| {
        Error::failed(
            format!("cannot listen on {address}: {error}"),
            "the interconnect must be up, and this controller's daemons stopped",
        )
    })?;
    let code = Code::random().ok_or_else(|| Error::failed("the system has no random bytes", AGAIN))?;
    tell(&format!(
        "Type this code on controller {} (pollux pair enter), within {} minutes:\n\n    {}\n",
        here.config.controller.partner(),
        GOOD_FOR.as_secs() / 60,
        code.show()
    ));
    let (begin, mut watch) = (Instant::now(), Watch::new());
    loop {
        watch.admits(begin.elapsed()).map_err(ended)?;
        let left = GOOD_FOR.saturating_sub(begin.elapsed());
        let Ok(accepted) = timeout(left, listener.accept()).await else {
            continue;
        };
        let talk = async {
            let (stream, _) = accepted?;
            exchange::show(stream, &code, here.me(), &here.identity).await
        };
        match timeout(WITHIN, talk).await {
            Ok(Ok(paired)) => {
                here.keep(&paired)
                    .map_err(|error| Error::failed(error.to_string(), AGAIN))?;
                return Ok(here.shown(paired.partner));
            }
            Ok(Err(PairError::WrongCode)) => {
                let left = watch.wrong();
                tell(&format!(
                    "A wrong code was typed; {left} of {TRIES} tries are left."
                ));
            }
            Ok(Err(error)) => tell(&format!("{error}.")),
            Err(_) => tell("Somebody connected and said nothing."),
        }
    }
}

/// Reads the code that the other controller shows, and proves that it is the right one.
///
/// # Errors
/// The controller runs, the other one does not show a code, or the code was wrong three times.
pub async fn enter(place: &Place) -> Result<Shown, Error> {
    let here = Here::open(place)?;
    let address = here.config.interconnect.router_partner();
    for _ in 0..TRIES {
        let code = ask(&here)?;
        let stream = timeout(WITHIN, TcpStream::connect(address)).await;
        let stream = stream
            .map_err(io::Error::from)
            .and_then(|stream| stream)
            .map_err(|error| {
                let remedy = "show a code there first: pollux pair show; and see that the interconnect is up";
                Error::failed(
                    format!(
                        "controller {} does not answer at {address}: {error}",
                        here.me().controller.partner()
                    ),
                    remedy,
                )
            })?;
        let join = exchange::join(stream, &code, here.me(), &here.identity, |paired| {
            here.keep(paired)
        });
        match timeout(WITHIN, join).await {
            Ok(Ok(paired)) => return Ok(here.shown(paired.partner)),
            Ok(Err(PairError::WrongCode)) => tell("The code is wrong."),
            Ok(Err(error)) => return Err(Error::failed(error.to_string(), AGAIN)),
            Err(_) => {
                return Err(Error::failed(format!("no answer within {WITHIN:?}"), AGAIN));
            }
        }
    }
    Err(ended(Ended::Guessed))
}

/// Asks the person for the code until it can be one.
fn ask(here: &Here) -> Result<Code, Error> {
    loop {
        let mut out = io::stderr();
        let _ = write!(
            out,
            "Code that controller {} shows: ",
            here.me().controller.partner()
        );
        let _ = out.flush();
        let mut typed = String::new();
        match io::stdin().lock().read_line(&mut typed) {
            Ok(0) => {
                return Err(Error::usage(
                    "no code was typed",
                    "type the 8 digits that the other controller shows",
                ));
            }
            Ok(_) => match Code::read(&typed) {
                Ok(code) => return Ok(code),
                Err(error) => tell(&format!("{error}.")),
            },
            Err(error) => return Err(Error::failed(format!("cannot read the code: {error}"), AGAIN)),
        }
    }
}
