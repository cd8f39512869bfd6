//! An initiator that sees every PDU, and sends what it is told, sound or not.

use crate::rig::{BLOCK, BOUND, TARGET};
use bytes::BytesMut;
use pollux_block_target::iscsi::chap::Algorithm;
use pollux_block_target::iscsi::pdu::{self, Digests, Header, NO_TAG, Pdu, request, response};
use pollux_block_target::iscsi::text;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

pub(crate) struct Initiator {
    stream: Box<dyn Stream>,
    buffer: BytesMut,
    pub(crate) digests: Digests,
    pub(crate) isid: [u8; 6],
    pub(crate) tsih: u16,
    pub(crate) cid: u16,
    pub(crate) cmd_sn: u32,
    pub(crate) tag: u32,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u8,
    /// Sense key, code and qualifier.
    pub(crate) sense: Option<(u8, u16)>,
    pub(crate) data: Vec<u8>,
    /// Flags and count of the residual.
    pub(crate) residual: (u8, u32),
}

impl Answer {
    pub(crate) fn is_good(&self) -> bool {
        self.status == 0
    }

    pub(crate) fn refused(&self) -> (u8, Option<(u8, u16)>) {
        (self.status, self.sense)
    }
}

impl Initiator {
    pub(crate) fn over(stream: impl Stream + 'static) -> Self {
        Self {
            stream: Box::new(stream),
            buffer: BytesMut::new(),
            digests: Digests::default(),
            isid: [0x80, 0, 0, 0, 0, 1],
            tsih: 0,
            cid: 0,
            cmd_sn: 1,
            tag: 0,
        }
    }

    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        // The target may have hung up; whoever reads next notices.
        let _ = self.stream.write_all(bytes).await;
    }

    pub(crate) async fn send(&mut self, header: Header, data: &[u8]) {
        let mut out = Vec::new();
        pdu::put(&mut out, header, data, self.digests);
        self.raw(&out).await;
    }

    /// The same with a bit of the data flipped on its way.
    pub(crate) async fn send_damaged(&mut self, header: Header, data: &[u8]) {
        let mut out = Vec::new();
        pdu::put(&mut out, header, data, self.digests);
        let at = out.len() - 5;
        out[at] ^= 1;
        self.raw(&out).await;
    }

    /// The next PDU; `None`: the target has closed the connection.
    pub(crate) async fn next(&mut self) -> Option<Pdu> {
        let next = async {
            loop {
                if let Some(pdu) = pdu::take(&mut self.buffer, self.digests, 1 << 24).expect("sound") {
                    return Some(pdu);
                }
                if self.stream.read_buf(&mut self.buffer).await.ok()? == 0 {
                    return None;
                }
            }
        };
        timeout(BOUND, next).await.expect("an answer or the end")
    }

    /// So many bytes as they come, whatever they are.
    pub(crate) async fn bytes(&mut self, count: usize) -> Vec<u8> {
        let enough = async {
            while self.buffer.len() < count {
                let read = self.stream.read_buf(&mut self.buffer).await.expect("connected");
                assert_ne!(read, 0, "closed");
            }
        };
        timeout(BOUND, enough).await.expect("they come");
        self.buffer.split_to(count).to_vec()
    }

    /// The next PDU, which has to be of this kind.
    pub(crate) async fn expect(&mut self, opcode: u8) -> Pdu {
        let pdu = self.next().await.expect("connected");
        assert_eq!(pdu.header.opcode(), opcode, "{pdu:?}");
        pdu
    }

    /// Nothing follows but the end.
    pub(crate) async fn closed(&mut self) {
        let next = self.next().await;
        assert!(next.is_none(), "{next:?}");
    }

    /// How the connection ends, whatever comes before: in order, or by which error.
    pub(crate) async fn ending(&mut self) -> std::io::Result<()> {
        let end = async {
            loop {
                self.buffer.clear();
                if self.stream.read_buf(&mut self.buffer).await? == 0 {
                    return Ok(());
                }
            }
        };
        timeout(BOUND, end).await.expect("it ends")
    }

    pub(crate) fn header(&mut self, opcode: u8, flags: u8) -> Header {
        self.tag += 1;
        let mut header = Header([0; 48]);
        header.0[0] = opcode;
        header.0[1] = flags;
        header.put32(16, self.tag);
        header.put32(24, self.cmd_sn);
        if opcode & 0x40 == 0 && !matches!(opcode, request::DATA_OUT | request::SNACK) {
            self.cmd_sn += 1;
        }
        header
    }

    /// One Login Request and its answer: the header and the keys.
    pub(crate) async fn login(
        &mut self,
        flags: u8,
        keys: &[(&str, &str)],
    ) -> Option<(Header, Vec<(String, String)>)> {
        let mut header = Header([0; 48]);
        header.0[0] = 0x40 | request::LOGIN;
        header.0[1] = flags;
        header.0[8..14].copy_from_slice(&self.isid);
        header.put16(14, self.tsih);
        header.put16(20, self.cid);
        header.put32(24, self.cmd_sn);
        let mut data = Vec::new();
        for (key, value) in keys {
            text::push(&mut data, key, value);
        }
        self.send(header, &data).await;
        let reply = self.next().await?;
        assert_eq!(reply.header.opcode(), response::LOGIN);
        let keys = text::split(&reply.data).expect("keys");
        if reply.header.0[1] & 0x83 == 0x83 && reply.header.get16(36) == 0 {
            self.tsih = reply.header.get16(14);
        }
        Some((reply.header, keys))
    }

    /// A whole login in one request; class and detail of the answer.
    pub(crate) async fn log_in(&mut self, host: &str, keys: &[(&str, &str)]) -> u16 {
        let names = [("InitiatorName", host), ("TargetName", TARGET)];
        let discovery = keys.contains(&("SessionType", "Discovery"));
        let names = if discovery { &names[..1] } else { &names[..] };
        let (header, answer) = self
            .login(0x87, &[names, keys].concat())
            .await
            .expect("an answer");
        let on = |key: &str| answer.contains(&(key.to_owned(), "CRC32C".to_owned()));
        self.digests = Digests {
            header: on("HeaderDigest"),
            data: on("DataDigest"),
        };
        header.get16(36)
    }

    /// A login by CHAP; class and detail of the answer, and whether the target has proven itself by `target_secret`.
    pub(crate) async fn log_in_by_chap(
        &mut self,
        (host, user, secret): (&str, &str, &str),
        algorithms: &str,
        target_secret: Option<&str>,
    ) -> (u16, bool) {
        let names = [
            ("InitiatorName", host),
            ("TargetName", TARGET),
            ("AuthMethod", "CHAP,None"),
        ];
        let (header, _) = self.login(0x00, &names).await.expect("an answer");
        if header.get16(36) != 0 {
            return (header.get16(36), false);
        }
        let (header, asked) = self
            .login(0x00, &[("CHAP_A", algorithms)])
            .await
            .expect("an answer");
        if header.get16(36) != 0 {
            return (header.get16(36), false);
        }
        let of = |keys: &[(String, String)], key: &str| {
            let found = keys.iter().find(|(name, _)| name == key);
            found.map(|(_, value)| value.clone())
        };
        let say = |key| of(&asked, key).expect("said");
        let algorithm = Algorithm::choose(&say("CHAP_A")).expect("an algorithm");
        let identifier = say("CHAP_I").parse().expect("a byte");
        let challenge = text::binary(&say("CHAP_C"), 1024).expect("bytes");
        let response = text::hexadecimal(&algorithm.respond(identifier, secret.as_bytes(), &challenge));
        let mut proof = vec![("CHAP_N", user), ("CHAP_R", &response)];
        if target_secret.is_some() {
            proof.extend([("CHAP_I", "77"), ("CHAP_C", "0x112233445566778899aabbccddeeff00")]);
        }
        let (header, answer) = self.login(0x83, &proof).await.expect("an answer");
        let own = text::binary("0x112233445566778899aabbccddeeff00", 16).expect("bytes");
        let proven = target_secret.is_some_and(|secret| {
            let right = algorithm.respond(77, secret.as_bytes(), &own);
            of(&answer, "CHAP_R") == Some(text::hexadecimal(&right))
        });
        (header.get16(36), proven)
    }

    /// Sends a command to unit 1 without waiting; its tag.
    pub(crate) async fn begin(&mut self, cdb: &[u8], expected: u32, data: Option<&[u8]>) -> u32 {
        let direction = match (data, expected) {
            (Some(_), _) => 0x20,
            (None, 0) => 0,
            (None, _) => 0x40,
        };
        let mut header = self.header(request::SCSI_COMMAND, 0x81 | direction);
        header.0[9] = 1;
        header.put32(20, expected);
        header.0[32..32 + cdb.len()].copy_from_slice(cdb);
        self.send(header, data.unwrap_or_default()).await;
        header.tag()
    }

    /// Sends a Data-Out.
    pub(crate) async fn data_out(
        &mut self,
        tag: u32,
        transfer: u32,
        number: u32,
        offset: u32,
        data: &[u8],
        last: bool,
    ) {
        let header = data_out_header(tag, transfer, number, offset, last);
        self.send(header, data).await;
    }

    /// The end of the command with this tag. Other PDUs are an error.
    pub(crate) async fn end(&mut self, tag: u32) -> Answer {
        let mut data = Vec::new();
        loop {
            let pdu = self.next().await.expect("connected");
            let header = pdu.header;
            assert_eq!(header.tag(), tag, "{pdu:?}");
            let ended = match header.opcode() {
                response::DATA_IN => {
                    assert_eq!(header.get32(40) as usize, data.len(), "in order");
                    data.extend_from_slice(&pdu.data);
                    header.0[1] & 1 != 0
                }
                response::SCSI => true,
                _ => panic!("{pdu:?}"),
            };
            if ended {
                let sense = (header.opcode() == response::SCSI && !pdu.data.is_empty()).then(|| {
                    let code = u16::from_be_bytes([pdu.data[14], pdu.data[15]]);
                    (pdu.data[4] & 0x0f, code)
                });
                return Answer {
                    status: header.0[3],
                    sense,
                    data,
                    residual: (header.0[1] & 0x06, header.get32(44)),
                };
            }
        }
    }

    pub(crate) async fn run(&mut self, cdb: &[u8], expected: u32, data: Option<&[u8]>) -> Answer {
        let tag = self.begin(cdb, expected, data).await;
        self.end(tag).await
    }

    pub(crate) async fn read(&mut self, lba: u8) -> Answer {
        self.run(&read_cdb(lba, 1), BLOCK, None).await
    }

    pub(crate) async fn write(&mut self, lba: u8, fill: u8) -> Answer {
        self.run(&write_cdb(lba, 1), BLOCK, Some(&block(fill))).await
    }

    /// A task management function; what it is answered.
    pub(crate) async fn manage(&mut self, function: u8, referenced: u32, number: u32) -> u8 {
        let tag = self.begin_manage(function, referenced, number).await;
        let pdu = self.expect(response::TASK_MANAGEMENT).await;
        assert_eq!(pdu.header.tag(), tag);
        pdu.header.0[2]
    }

    /// The same without waiting.
    pub(crate) async fn begin_manage(&mut self, function: u8, referenced: u32, number: u32) -> u32 {
        let mut header = self.header(0x40 | request::TASK_MANAGEMENT, 0x80 | function);
        header.0[9] = 1;
        header.put32(20, referenced);
        header.put32(32, number);
        self.send(header, &[]).await;
        header.tag()
    }

    /// Text in full feature phase, and the keys of the answer.
    pub(crate) async fn ask(&mut self, text: &[u8]) -> Vec<(String, String)> {
        let mut header = self.header(request::TEXT, 0x80);
        header.put32(20, NO_TAG);
        self.send(header, text).await;
        let answer = self.expect(response::TEXT).await;
        assert_eq!((answer.header.0[1], answer.header.get32(20)), (0x80, NO_TAG));
        text::split(&answer.data).expect("keys")
    }

    /// Logs out; what is answered.
    pub(crate) async fn log_out(&mut self, reason: u8, cid: u16) -> u8 {
        let mut header = self.header(0x40 | request::LOGOUT, 0x80 | reason);
        header.put16(20, cid);
        self.send(header, &[]).await;
        self.expect(response::LOGOUT).await.header.0[2]
    }
}

pub(crate) fn data_out_header(tag: u32, transfer: u32, number: u32, offset: u32, last: bool) -> Header {
    let mut header = Header([0; 48]);
    header.0[0] = request::DATA_OUT;
    header.0[1] = if last { 0x80 } else { 0 };
    header.0[9] = 1;
    header.put32(16, tag);
    header.put32(20, transfer);
    header.put32(36, number);
    header.put32(40, offset);
    header
}

pub(crate) fn read_cdb(lba: u8, blocks: u16) -> [u8; 10] {
    let [high, low] = blocks.to_be_bytes();
    [0x28, 0, 0, 0, 0, lba, 0, high, low, 0]
}

pub(crate) fn write_cdb(lba: u8, blocks: u16) -> [u8; 10] {
    let [high, low] = blocks.to_be_bytes();
    [0x2a, 0, 0, 0, 0, lba, 0, high, low, 0]
}

pub(crate) fn block(fill: u8) -> Vec<u8> {
    vec![fill; BLOCK as usize]
}
