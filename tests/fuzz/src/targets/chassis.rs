//! Lines on the sockets of the enclosure: front panel and power control.

use super::block_on;
use pollux_api::chassis::{
    BMC, DAEMON, DISK_FAULT, DISK_PATH, EVENTS, EventQuery, HANG, HOST_PORT, LEG, NOTE, Note, POWER, REBOOT,
    Reboot, SHELF_POWER, SetBmc, SetDiskFault, SetDiskPath, SetHostPort, SetHung, SetLeg, SetPower,
    SetShelfPower, SetWatchdog, SignalDaemon, WATCHDOG, bmc,
};
use pollux_chassis::lines::{Handler, LONGEST, Reply, answer, converse, params, unknown};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Says back what it has understood.
struct Echo;

fn said<T: Serialize + DeserializeOwned>(method: &str, given: Value) -> Reply {
    let read = params::<T>(method, given);
    if let Ok(value) = &read {
        let json = serde_json::to_value(value).expect("plain data");
        let again: T = serde_json::from_value(json.clone()).expect("what was written is read");
        assert_eq!(
            serde_json::to_value(again).ok(),
            Some(json),
            "it changes each time"
        );
    }
    answer(read)
}

impl Handler for Echo {
    async fn call(&self, method: &str, given: Value) -> Reply {
        match method {
            POWER => said::<SetPower>(method, given),
            HANG => said::<SetHung>(method, given),
            REBOOT => said::<Reboot>(method, given),
            DAEMON => said::<SignalDaemon>(method, given),
            LEG => said::<SetLeg>(method, given),
            HOST_PORT => said::<SetHostPort>(method, given),
            DISK_PATH => said::<SetDiskPath>(method, given),
            DISK_FAULT => said::<SetDiskFault>(method, given),
            SHELF_POWER => said::<SetShelfPower>(method, given),
            BMC => said::<SetBmc>(method, given),
            WATCHDOG => said::<SetWatchdog>(method, given),
            NOTE => said::<Note>(method, given),
            EVENTS => said::<EventQuery>(method, given),
            bmc::WATCHDOG_ARM => said::<bmc::Arm>(method, given),
            "silence" => Reply::Silence,
            other => Reply::Answer(Err(unknown(other, &[POWER, HANG]))),
        }
    }
}

/// Everything that one connection says.
pub(super) fn lines(data: &[u8]) {
    let heard = block_on(async {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (mut read, mut write) = tokio::io::split(near);
        let caller = async {
            // It hangs up on a line without end.
            let _ = write.write_all(data).await;
            let _ = write.shutdown().await;
        };
        let mut heard = vec![];
        let ends = async {
            tokio::join!(
                caller,
                read.read_to_end(&mut heard),
                converse(far, Arc::new(Echo))
            )
        };
        let ended = tokio::time::timeout(Duration::from_secs(30), ends).await;
        assert!(ended.is_ok(), "the caller has hung up and the connection stays");
        heard
    });
    let mut answers = 0;
    for line in heard.split_inclusive(|byte| *byte == b'\n') {
        assert_eq!(line.last(), Some(&b'\n'), "an answer without an end");
        let answer: Value = serde_json::from_slice(line).expect("an answer is JSON");
        let one = answer.get("result").is_some() != answer.get("error").is_some();
        assert!(one, "neither result nor error, or both: {answer}");
        answers += 1;
    }
    let asked = data.split(|byte| *byte == b'\n').count();
    assert!(answers <= asked, "{answers} answers to {asked} lines");
    // A line that does not begin like an object is never a request.
    let no_object = |line: &[u8]| line.trim_ascii_start().first() != Some(&b'{');
    if data.len() < LONGEST as usize && data.split(|byte| *byte == b'\n').all(no_object) {
        assert!(
            !heard.windows(8).any(|bytes| bytes == b"\"result\""),
            "done without being asked"
        );
    }
}

pub(super) fn line_seeds() -> Vec<Vec<u8>> {
    let call = |method: &str, given: &str| {
        format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"{method}\",\"params\":{given}}}\n")
    };
    vec![
        call(POWER, r#"{"controller":"a","action":"off"}"#).into(),
        [
            call(HANG, r#"{"controller":"b","hung":true}"#),
            call(REBOOT, r#"{"controller":"a","grace_ms":5}"#),
        ]
        .concat()
        .into(),
        [
            call(DISK_FAULT, r#"{"disk":3,"port":"a","fault":{"delay_ms":5}}"#),
            call(DISK_PATH, r#"{"controller":"a","disk":3,"connected":false}"#),
        ]
        .concat()
        .into(),
        [
            call(DAEMON, r#"{"controller":"a","daemon":"aluad","action":"kill"}"#),
            call(LEG, r#"{"leg":0,"cable":"cut"}"#),
        ]
        .concat()
        .into(),
        [
            call(NOTE, r#"{"text":"x"}"#),
            call(EVENTS, "null"),
            call("nobody", "1"),
            "[\n".into(),
        ]
        .concat()
        .into(),
        [
            call(bmc::WATCHDOG_ARM, r#"{"timeout_ms":500}"#),
            call("silence", "[]"),
        ]
        .concat()
        .into(),
        b"[\"2.0\",1,\"chassis.power\",{\"controller\":\"a\",\"action\":\"off\"}]\n".to_vec(),
    ]
}
