//! The answering side of JSON-RPC 2.0 with one object per line, for the sockets of hardware.

use pollux_api::error::{Code, RpcError};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;

/// Longest request, bytes. The largest real one names every volume of a pool.
const LONGEST: u64 = 1 << 20;

/// Does what is asked.
pub trait Handler: Send + Sync + 'static {
    /// One request.
    fn call(&self, method: &str, params: Value) -> impl Future<Output = Result<Value, RpcError>> + Send;
}

/// Answers every connection until it is dropped. Requests of one connection are done one after the other.
pub async fn serve(listener: UnixListener, handler: Arc<impl Handler>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(converse(stream, handler.clone()));
            }
            Err(error) => {
                // Out of descriptors, most likely: the pause keeps that from spinning.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

#[derive(Deserialize)]
struct Request<'a> {
    jsonrpc: String,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    method: String,
    #[serde(default)]
    params: Value,
}

#[derive(Serialize)]
struct Response<'a> {
    jsonrpc: &'static str,
    id: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<RpcError>,
}

async fn converse<S: AsyncRead + AsyncWrite>(stream: S, handler: Arc<impl Handler>) {
    let (read, mut write) = tokio::io::split(stream);
    let mut read = BufReader::new(read);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut read).take(LONGEST).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let whole = line.ends_with(b"\n");
        let parsed = match whole || (line.len() as u64) < LONGEST {
            true => parse(&line),
            false => Err(wrong(format!("a line of more than {LONGEST} bytes"))),
        };
        let (id, outcome) = match parsed {
            Ok(request) => (request.id, handler.call(&request.method, request.params).await),
            Err(error) => (None, Err(error)),
        };
        let (result, error) = match outcome {
            Ok(result) => (Some(result), None),
            Err(error) => (None, Some(error)),
        };
        let response = Response {
            jsonrpc: "2.0",
            id,
            result,
            error,
        };
        let Ok(mut bytes) = serde_json::to_vec(&response) else {
            return;
        };
        bytes.push(b'\n');
        // Behind a line that was too long nothing can be told apart.
        if write.write_all(&bytes).await.is_err() || !whole {
            return;
        }
    }
}

fn wrong(what: String) -> RpcError {
    RpcError::new(Code::InvalidRequest, "request", what)
        .remedy(r#"one line: {"jsonrpc":"2.0","id":1,"method":"...","params":{...}}"#)
}

fn parse(line: &[u8]) -> Result<Request<'_>, RpcError> {
    // serde would read an array as the members in the order of `Request`.
    if line.trim_ascii_start().first() == Some(&b'[') {
        return Err(wrong("an array where a request should be".to_owned()));
    }
    let request: Request<'_> = serde_json::from_slice(line).map_err(|error| wrong(error.to_string()))?;
    match request.jsonrpc.as_str() {
        "2.0" => Ok(request),
        other => Err(wrong(format!("jsonrpc is {other:?}, not \"2.0\""))),
    }
}

/// Reads the parameters of `method`.
pub fn params<T: DeserializeOwned>(method: &str, params: Value) -> Result<T, RpcError> {
    serde_json::from_value(params)
        .map_err(|error| RpcError::new(Code::InvalidParams, method, error.to_string()))
}

/// The answer to a method that does not exist.
pub fn unknown(method: &str, known: &[&str]) -> RpcError {
    RpcError::new(Code::MethodNotFound, method, "no such method")
        .remedy(format!("there are {}", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixStream;

    struct Echo;

    impl Handler for Echo {
        async fn call(&self, method: &str, given: Value) -> Result<Value, RpcError> {
            match method {
                "echo" => params::<u32>(method, given).map(Value::from),
                _ => Err(unknown(method, &["echo"])),
            }
        }
    }

    #[tokio::test]
    async fn every_line_has_an_answer() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        tokio::spawn(converse(theirs, Arc::new(Echo)));
        let (read, mut write) = ours.into_split();
        let mut read = BufReader::new(read);
        for (line, wanted) in [
            (
                r#"{"jsonrpc":"2.0","id":7,"method":"echo","params":1}"#,
                r#""id":7,"result":1"#,
            ),
            (
                r#"{"jsonrpc":"2.0","id":"x","method":"echo","params":"a"}"#,
                "invalid type",
            ),
            (r#"{"jsonrpc":"2.0","id":1,"method":"sing"}"#, "there are echo"),
            (r#"{"jsonrpc":"1.0","id":1,"method":"echo"}"#, "not \\\"2.0\\\""),
            (r#"["2.0",1,"echo",1]"#, "an array"),
            ("{", "EOF"),
            ("\u{fffd}", "expected value"),
        ] {
            write.write_all(format!("{line}\n").as_bytes()).await.unwrap();
            let mut answer = String::new();
            read.read_line(&mut answer).await.unwrap();
            assert!(answer.contains(wanted), "{line}: {answer}");
        }
        write.write_all(&vec![b' '; LONGEST as usize + 1]).await.unwrap();
        let mut answer = String::new();
        read.read_line(&mut answer).await.unwrap();
        assert!(answer.contains("more than"), "{answer}");
        assert_eq!(read.read_line(&mut answer).await.unwrap_or(0), 0, "hung up");
    }
}
