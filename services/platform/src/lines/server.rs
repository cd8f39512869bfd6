//! The answering side: for the front panel of the enclosure in software, the power control of either enclosure, and
//! the kernel's volume groups.

use pollux_api::error::{Code, RpcError};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};
use std::{future::Future, sync::Arc};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::UnixListener,
};

/// Longest request, bytes. The largest real one names every volume of a pool.
pub const LONGEST: u64 = 1 << 20;

/// What becomes of a request.
#[derive(Debug)]
pub enum Reply {
    /// It is answered.
    Answer(Result<Value, RpcError>),
    /// It is never answered: whoever is asked cannot be reached.
    Silence,
}

/// Does what is asked.
pub trait Handler: Send + Sync + 'static {
    /// One request. It is carried through even if the caller goes away.
    fn call(&self, method: &str, params: Value) -> impl Future<Output = Reply> + Send;

    /// The answer to `method` has been written.
    fn answered(&self, _method: &str) {}
}

/// Answers every connection until the task is aborted. Requests of one connection are done one after the other.
pub async fn serve(listener: UnixListener, handler: Arc<impl Handler>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(converse(stream, handler.clone()));
            }
            // Out of descriptors, most likely: waiting is all that helps.
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

#[derive(Deserialize)]
struct Request<'a> {
    jsonrpc: Option<String>,
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

/// Answers one connection until it ends.
pub async fn converse<S: AsyncRead + AsyncWrite>(stream: S, handler: Arc<impl Handler>) {
    let (read, mut write) = tokio::io::split(stream);
    let mut read = BufReader::new(read);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut read).take(LONGEST).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let too_long = line.last() != Some(&b'\n') && line.len() as u64 == LONGEST;
        let parsed = match too_long {
            true => Err(RpcError::new(
                Code::Parse,
                "request",
                format!("a line of more than {LONGEST} bytes"),
            )),
            false => parse(&line),
        };
        let (id, outcome, method) = match &parsed {
            Err(error) => (None, Err(error.clone()), ""),
            Ok(request) => match handler.call(&request.method, request.params.clone()).await {
                Reply::Answer(outcome) => (request.id, outcome, request.method.as_str()),
                Reply::Silence => continue,
            },
        };
        if parsed.is_ok() && id.is_none() {
            continue;
        }
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
        let mut bytes = serde_json::to_vec(&response).expect("an answer is plain data");
        bytes.push(b'\n');
        if write.write_all(&bytes).await.is_err() || too_long {
            return;
        }
        handler.answered(method);
    }
}

fn parse(line: &[u8]) -> Result<Request<'_>, RpcError> {
    let wrong = |code, error: String| {
        RpcError::new(code, "request", error)
            .remedy(r#"one line: {"jsonrpc":"2.0","id":1,"method":"...","params":{...}}"#)
    };
    // serde would read an array as the members in the order of `Request`.
    if line.trim_ascii_start().first() == Some(&b'[') {
        return Err(wrong(
            Code::InvalidRequest,
            "an array where a request should be".into(),
        ));
    }
    let request: Request<'_> = serde_json::from_slice(line).map_err(|error| {
        wrong(
            if error.is_data() {
                Code::InvalidRequest
            } else {
                Code::Parse
            },
            error.to_string(),
        )
    })?;
    match request.jsonrpc.as_deref() {
        Some("2.0") => Ok(request),
        _ => Err(RpcError::new(
            Code::InvalidRequest,
            "request",
            r#""jsonrpc" is not "2.0""#,
        )),
    }
}

/// Reads the parameters of `method`.
pub fn params<T: DeserializeOwned>(method: &str, params: Value) -> Result<T, RpcError> {
    // A method whose parameters all have defaults may be called without any.
    let params = if params.is_null() {
        Value::Object(serde_json::Map::new())
    } else {
        params
    };
    serde_json::from_value(params)
        .map_err(|error| RpcError::new(Code::InvalidParams, method, error.to_string()))
}

/// The answer to a method that does not exist.
pub fn unknown(method: &str, known: &[&str]) -> RpcError {
    RpcError::new(Code::MethodNotFound, method, "no such method")
        .remedy(format!("there are {}", known.join(", ")))
}

/// Makes a value of a result.
pub fn answer<T: Serialize>(outcome: Result<T, RpcError>) -> Reply {
    Reply::Answer(outcome.map(|value| serde_json::to_value(value).expect("a result is plain data")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixStream;

    struct Echo;

    impl Handler for Echo {
        async fn call(&self, method: &str, given: Value) -> Reply {
            match method {
                "echo" => answer(params::<u32>(method, given)),
                "silent" => Reply::Silence,
                _ => Reply::Answer(Err(unknown(method, &["echo", "silent"]))),
            }
        }
    }

    #[tokio::test]
    async fn every_bad_line_has_an_answer_that_names_it() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        tokio::spawn(converse(theirs, Arc::new(Echo)));
        let (read, mut write) = ours.into_split();
        let mut read = BufReader::new(read);
        for (line, wanted) in [
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"echo","params":7}"#,
                r#""result":7"#,
            ),
            (
                r#"{"jsonrpc":"2.0","id":"x","method":"echo","params":"7"}"#,
                "invalid type: string",
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"shout"}"#,
                "there are echo, silent",
            ),
            (r#"{"jsonrpc":"1.0","id":1,"method":"echo"}"#, "is not"),
            (r#"{"id":1}"#, "missing field `method`"),
            ("{", "parse_error"),
            (r#"["2.0",1,"echo",7]"#, "an array where"),
            ("\u{fffd}", "parse_error"),
        ] {
            // A request that is never answered and one without an id must not disturb the order.
            let silent = r#"{"jsonrpc":"2.0","id":9,"method":"silent"}"#;
            let note = r#"{"jsonrpc":"2.0","method":"echo","params":1}"#;
            write
                .write_all(format!("{silent}\n{note}\n{line}\n").as_bytes())
                .await
                .unwrap();
            let mut text = String::new();
            read.read_line(&mut text).await.unwrap();
            assert!(text.contains(wanted), "{line}: {text}");
            assert!(serde_json::from_str::<Value>(&text).is_ok(), "{text}");
        }
        // Not one byte more: whoever is answered so is not read any further, and its pipe breaks.
        write.write_all(&vec![b'x'; LONGEST as usize]).await.unwrap();
        let mut text = String::new();
        read.read_line(&mut text).await.unwrap();
        assert!(text.contains("more than"), "{text}");
    }
}
