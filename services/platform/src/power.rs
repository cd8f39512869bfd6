//! Power of the partner and one's own watchdog, behind traits; and the implementation on the enclosure's `bmc.sock`.
//!
//! The partner's power button proves its death: "off" means that whatever ran there has stopped; "on" and silence prove
//! nothing. The watchdog proves one's own: a controller that no longer pets it is reset, whatever state it is in.
//!
//! Each implementation answers within the deadline that the caller gives or reports that it did not. An error is never
//! evidence: who did not hear "off" does not know.

use pollux_api::chassis::{PowerState, bmc};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    future::Future,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
};

pub use bmc::Partner;

/// Why power control or the watchdog did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum PowerError {
    /// No answer in time: unreachable, or slow. What was asked may still happen.
    #[error("{operation}: no answer from {} within {} ms", path.display(), after.as_millis())]
    Timeout {
        /// What was asked.
        operation: &'static str,
        /// Of whom.
        path: PathBuf,
        /// How long was waited.
        after: Duration,
    },
    /// The connection failed.
    #[error("{operation}: {}: {source}", path.display())]
    Io {
        /// What was asked.
        operation: &'static str,
        /// Of whom.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It answered with an error.
    #[error("{operation}: refused: {reason}")]
    Refused {
        /// What was asked.
        operation: &'static str,
        /// Its words.
        reason: String,
    },
}

/// The power control of the partner.
pub trait PowerControl: Send {
    /// Power of the partner now.
    fn partner(&mut self, within: Duration) -> impl Future<Output = Result<Partner, PowerError>> + Send;
    /// Cuts the partner's power; answers when it is off.
    fn partner_off(&mut self, within: Duration) -> impl Future<Output = Result<Partner, PowerError>> + Send;
    /// Gives the partner power.
    fn partner_on(&mut self, within: Duration) -> impl Future<Output = Result<Partner, PowerError>> + Send;
    /// Resets the caller's own controller. Returns only if that failed.
    fn reset_self(&mut self, within: Duration) -> impl Future<Output = PowerError> + Send;
}

/// The controller's own watchdog.
pub trait Watchdog: Send {
    /// Arms it, or changes the timeout of the armed one; counts as a pet.
    fn arm(
        &mut self,
        timeout: Duration,
        within: Duration,
    ) -> impl Future<Output = Result<(), PowerError>> + Send;
    /// Starts its time anew.
    fn pet(&mut self, within: Duration) -> impl Future<Output = Result<(), PowerError>> + Send;
    /// Disarms it; only with nothing imported.
    fn disarm(&mut self, within: Duration) -> impl Future<Output = Result<(), PowerError>> + Send;
}

/// Both, on the enclosure's socket. One connection, one request at a time; use one value for power and another for the
/// watchdog, so that a power cut that takes its time delays no pet.
#[derive(Debug)]
pub struct ChassisBmc {
    path: PathBuf,
    connection: Option<(BufReader<OwnedReadHalf>, OwnedWriteHalf)>,
    next: u64,
}

#[derive(Serialize)]
struct Request<'a, P> {
    jsonrpc: &'static str,
    id: u64,
    method: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<P>,
}

#[derive(serde::Deserialize)]
struct Response {
    id: Option<u64>,
    result: Option<serde_json::Value>,
    error: Option<ResponseError>,
}

#[derive(serde::Deserialize)]
struct ResponseError {
    message: String,
}

impl ChassisBmc {
    /// A client of `DIR/<controller>/bmc.sock`; it connects with the first request.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            connection: None,
            next: 0,
        }
    }

    async fn call<R: DeserializeOwned>(
        &mut self,
        operation: &'static str,
        params: Option<impl Serialize + Send>,
        within: Duration,
    ) -> Result<R, PowerError> {
        let attempt = tokio::time::timeout(within, self.exchange(operation, params)).await;
        let outcome = attempt.unwrap_or_else(|_| {
            Err(PowerError::Timeout {
                operation,
                path: self.path.clone(),
                after: within,
            })
        });
        if !matches!(outcome, Ok(_) | Err(PowerError::Refused { .. })) {
            // A late answer must not be taken for that of the next request.
            self.connection = None;
        }
        outcome
    }

    async fn exchange<R: DeserializeOwned>(
        &mut self,
        operation: &'static str,
        params: Option<impl Serialize + Send>,
    ) -> Result<R, PowerError> {
        let path = self.path.clone();
        let io = |source| PowerError::Io {
            operation,
            path: path.clone(),
            source,
        };
        if self.connection.is_none() {
            let (read, write) = UnixStream::connect(&self.path).await.map_err(io)?.into_split();
            self.connection = Some((BufReader::new(read), write));
        }
        let (read, write) = self.connection.as_mut().expect("connected above");
        self.next += 1;
        let request = Request {
            jsonrpc: "2.0",
            id: self.next,
            method: operation,
            params,
        };
        let mut line = serde_json::to_vec(&request).map_err(|e| io(e.into()))?;
        line.push(b'\n');
        write.write_all(&line).await.map_err(io)?;
        let mut answer = String::new();
        if read.read_line(&mut answer).await.map_err(io)? == 0 {
            return Err(io(std::io::ErrorKind::UnexpectedEof.into()));
        }
        let response: Response = serde_json::from_str(&answer).map_err(|e| io(e.into()))?;
        if response.id != Some(self.next) {
            return Err(io(std::io::Error::other("the answer belongs to another request")));
        }
        match response {
            Response {
                error: Some(error), ..
            } => Err(PowerError::Refused {
                operation,
                reason: error.message,
            }),
            Response {
                result: Some(result), ..
            } => serde_json::from_value(result).map_err(|e| io(e.into())),
            _ => Err(io(std::io::Error::other("neither a result nor an error"))),
        }
    }
}

const NONE: Option<()> = None;

impl PowerControl for ChassisBmc {
    async fn partner(&mut self, within: Duration) -> Result<Partner, PowerError> {
        self.call(bmc::PARTNER, NONE, within).await
    }

    async fn partner_off(&mut self, within: Duration) -> Result<Partner, PowerError> {
        let partner: Partner = self.call(bmc::PARTNER_OFF, NONE, within).await?;
        match partner.power {
            PowerState::Off => Ok(partner),
            other => Err(PowerError::Refused {
                operation: bmc::PARTNER_OFF,
                reason: format!("the partner's power is reported {other:?} after it was cut"),
            }),
        }
    }

    async fn partner_on(&mut self, within: Duration) -> Result<Partner, PowerError> {
        self.call(bmc::PARTNER_ON, NONE, within).await
    }

    async fn reset_self(&mut self, within: Duration) -> PowerError {
        match self.call::<serde_json::Value>(bmc::RESET, NONE, within).await {
            Ok(_) => PowerError::Refused {
                operation: bmc::RESET,
                reason: "answered, but this still runs".into(),
            },
            Err(error) => error,
        }
    }
}

impl Watchdog for ChassisBmc {
    async fn arm(&mut self, timeout: Duration, within: Duration) -> Result<(), PowerError> {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.call::<bool>(bmc::WATCHDOG_ARM, Some(bmc::Arm { timeout_ms }), within)
            .await
            .map(drop)
    }

    async fn pet(&mut self, within: Duration) -> Result<(), PowerError> {
        self.call::<bool>(bmc::WATCHDOG_PET, NONE, within).await.map(drop)
    }

    async fn disarm(&mut self, within: Duration) -> Result<(), PowerError> {
        self.call::<bool>(bmc::WATCHDOG_DISARM, NONE, within)
            .await
            .map(drop)
    }
}
