//! JSON-RPC 2.0 with one object per line on a Unix socket: the enclosure's front panel and its power control. (The
//! daemons' own messages go through the router, which wants more.) Here is who calls; who answers is in [`server`].

pub mod server;

use pollux_api::error::RpcError;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No answer in time. What was asked may still happen.
    #[error("{method}: no answer from {} within {} ms", path.display(), after.as_millis())]
    Timeout {
        /// What was asked.
        method: String,
        /// Of whom.
        path: PathBuf,
        /// How long was waited.
        after: Duration,
    },
    /// The connection failed, or what came back is no answer. What was asked may have happened.
    #[error("{method}: {}: {source}", path.display())]
    Io {
        /// What was asked.
        method: String,
        /// Of whom.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It answered with an error.
    #[error("{method}: {error}")]
    Refused {
        /// What was asked.
        method: String,
        /// The answer.
        error: RpcError,
    },
}

/// One connection, one call at a time. Connects with the first call, and again after a failure.
#[derive(Debug)]
pub struct LineClient {
    path: PathBuf,
    connection: Option<Connection>,
    last: u64,
}

#[derive(Serialize)]
struct Request<'a, P> {
    jsonrpc: &'static str,
    id: u64,
    method: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<P>,
}

#[derive(Deserialize)]
#[serde(bound = "R: DeserializeOwned")]
struct Response<R> {
    id: Option<u64>,
    result: Option<R>,
    error: Option<RpcError>,
}

impl LineClient {
    /// A caller of the socket at `path`.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            connection: None,
            last: 0,
        }
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Calls `method` and waits `within` for its result. `R` must not be an `Option`: a `null` counts as no result.
    pub async fn call<P: Serialize, R: DeserializeOwned>(
        &mut self,
        method: &str,
        params: Option<P>,
        within: Duration,
    ) -> Result<R, CallError> {
        let io = |path: &Path, source| CallError::Io {
            method: method.to_owned(),
            path: path.to_owned(),
            source,
        };
        // Taken out for the time of the call: if the caller gives up in the middle, a late answer must not be taken
        // for that of the next call, so the connection is dropped with the future.
        let connection = self.connection.take();
        self.last += 1;
        let request = Request {
            jsonrpc: "2.0",
            id: self.last,
            method,
            params,
        };
        let exchange = tokio::time::timeout(within, exchange(&self.path, connection, &request));
        let (connection, response) = match exchange.await {
            Ok(Ok(done)) => done,
            Ok(Err(source)) => return Err(io(&self.path, source)),
            Err(_) => {
                return Err(CallError::Timeout {
                    method: method.to_owned(),
                    path: self.path.clone(),
                    after: within,
                });
            }
        };
        if response.id.is_some_and(|id| id != self.last) {
            return Err(io(
                &self.path,
                io::Error::other("the answer belongs to another call"),
            ));
        }
        self.connection = Some(connection);
        match response {
            Response {
                error: Some(error), ..
            } => Err(CallError::Refused {
                method: method.to_owned(),
                error,
            }),
            Response {
                result: Some(result), ..
            } => Ok(result),
            _ => Err(io(
                &self.path,
                io::Error::other("the answer has neither a result nor an error"),
            )),
        }
    }
}

type Connection = (BufReader<OwnedReadHalf>, OwnedWriteHalf);

async fn exchange<P: Serialize, R: DeserializeOwned>(
    path: &Path,
    connection: Option<Connection>,
    request: &Request<'_, P>,
) -> io::Result<(Connection, Response<R>)> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    let (mut read, mut write) = match connection {
        Some(connection) => connection,
        None => {
            let (read, write) = UnixStream::connect(path).await?.into_split();
            (BufReader::new(read), write)
        }
    };
    write.write_all(&line).await?;
    let mut answer = String::new();
    if read.read_line(&mut answer).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let response = serde_json::from_str(&answer)?;
    Ok(((read, write), response))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    const LIMIT: Duration = Duration::from_secs(10);

    /// Answers each line with the next text; an empty text is no answer.
    async fn server(path: &Path, answers: &'static [&'static str]) {
        let listener = UnixListener::bind(path).unwrap();
        tokio::spawn(async move {
            let mut answers = answers.iter();
            while let Ok((stream, _)) = listener.accept().await {
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                while stream.read_line(&mut line).await.is_ok_and(|n| n > 0) {
                    let answer = answers.next().copied().unwrap_or_default();
                    if !answer.is_empty() && stream.write_all(format!("{answer}\n").as_bytes()).await.is_err()
                    {
                        break;
                    }
                    line.clear();
                }
            }
        });
    }

    #[tokio::test]
    async fn answers_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        server(
            &path,
            &[
                r#"{"jsonrpc":"2.0","id":1,"result":7}"#,
                r#"{"jsonrpc":"2.0","id":2,"error":{"code":-32012,"message":"refused","data":{"what":"no","where":"x"}}}"#,
                r#"{"jsonrpc":"2.0","id":1,"result":7}"#,
                "not json",
                "",
                r#"{"jsonrpc":"2.0","id":6,"result":8}"#,
            ],
        )
        .await;
        let mut client = LineClient::new(&path);
        let none = None::<()>;
        assert_eq!(client.call::<_, u32>("m", none, LIMIT).await.unwrap(), 7);
        assert!(
            client
                .call::<_, u32>("m", none, LIMIT)
                .await
                .unwrap_err()
                .to_string()
                .contains("no")
        );
        let stale = client.call::<_, u32>("m", none, LIMIT).await.unwrap_err();
        assert!(stale.to_string().contains("another call"), "{stale}");
        assert!(matches!(
            client.call::<_, u32>("m", none, LIMIT).await,
            Err(CallError::Io { .. })
        ));
        let silent = client.call::<_, u32>("m", none, Duration::from_millis(20)).await;
        assert!(matches!(silent, Err(CallError::Timeout { .. })));
        assert_eq!(
            client.call::<_, u32>("m", none, LIMIT).await.unwrap(),
            8,
            "a new connection after a failure"
        );
        let mut nobody = LineClient::new(&dir.path().join("nobody"));
        assert!(
            nobody
                .call::<_, u32>("m", none, LIMIT)
                .await
                .unwrap_err()
                .to_string()
                .contains("nobody")
        );
    }
}
