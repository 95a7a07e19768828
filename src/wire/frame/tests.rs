use super::*;

fn frame(flag: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![flag];
    bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// What a connection does with its buffers.
fn receive(assembler: &mut Assembler, mut buffer: &[u8]) -> Result<Vec<Vec<u8>>, FrameError> {
    let mut payloads = Vec::new();
    if let Some(frame) = assembler.complete(&mut buffer)? {
        payloads.push(frame.payload.to_vec());
    }
    while let Some(frame) = split(&mut buffer)? {
        payloads.push(frame.payload.to_vec());
    }
    assembler.keep(buffer);
    Ok(payloads)
}

#[test]
fn frames_come_out_one_by_one_and_the_rest_stays() {
    let mut bytes = frame(0, b"first");
    bytes.extend(frame(2, b""));
    bytes.extend(&frame(0, b"third")[..7]);
    let mut rest = &bytes[..];
    let first = split(&mut rest).unwrap().unwrap();
    assert_eq!((first.flag, first.payload), (Flag::Message, &b"first"[..]));
    let second = split(&mut rest).unwrap().unwrap();
    assert_eq!((second.flag, second.payload), (Flag::Hello, &b""[..]));
    assert_eq!(split(&mut rest), Ok(None));
    assert_eq!(rest, &frame(0, b"third")[..7]);
}

#[test]
fn range_of_a_payload_starts_behind_the_prefix() {
    let header = FrameHeader { flag: Flag::Message, payload_size_bytes: 3 };
    assert_eq!(next(&frame(0, b"abc")), Ok(Some((header, 5..8))));
    assert_eq!(next(&frame(0, b"abc")[..7]), Ok(None));
    assert_eq!(next(b""), Ok(None));
}

#[test]
fn compressed_and_unknown_flags_are_refused_at_the_first_byte() {
    assert_eq!(next(&[1]), Err(FrameError::Compressed));
    assert_eq!(next(&[3]), Err(FrameError::FlagUnknown { flag: 3 }));
    assert_eq!(next(b"GET / HTTP/1.1"), Err(FrameError::FlagUnknown { flag: b'G' }));
    assert_eq!(FrameError::Compressed.status(), StatusCode::Unimplemented);
}

#[test]
fn lengths_beyond_the_limit_are_refused_from_the_prefix_alone() {
    let longest = u32::try_from(PAYLOAD_SIZE_BYTES_MAX).unwrap();
    for (length, refused) in [(longest, false), (longest + 1, true), (u32::MAX, true)] {
        let mut bytes = vec![0];
        bytes.extend_from_slice(&length.to_be_bytes());
        let error = FrameError::TooLong { payload_size_bytes: length };
        assert_eq!(next(&bytes).err(), refused.then_some(error));
        let mut assembler = Assembler::default();
        assembler.keep(&bytes[..3]);
        let completed = assembler.complete(&mut &bytes[3..]);
        assert_eq!(completed.err(), refused.then_some(error));
        assert!(assembler.capacity_bytes() <= FRAME_PREFIX_SIZE_BYTES, "nothing is reserved");
    }
}

#[test]
fn frames_survive_any_cut() {
    let mut bytes = frame(0, b"first");
    bytes.extend(frame(0, b""));
    bytes.extend(frame(2, &[7; 300]));
    let whole = vec![b"first".to_vec(), Vec::new(), vec![7; 300]];
    for cut in 0..bytes.len() {
        for second in cut..bytes.len() {
            let mut assembler = Assembler::default();
            let mut payloads = receive(&mut assembler, &bytes[..cut]).unwrap();
            payloads.extend(receive(&mut assembler, &bytes[cut..second]).unwrap());
            payloads.extend(receive(&mut assembler, &bytes[second..]).unwrap());
            assert_eq!(payloads, whole);
            assert!(assembler.is_empty());
        }
    }
}

#[test]
fn memory_grows_with_the_bytes_received_and_never_beyond_the_frame() {
    let payload = vec![1; FRAME_SIZE_BYTES_MAX - FRAME_PREFIX_SIZE_BYTES];
    let bytes = frame(0, &payload);
    let mut assembler = Assembler::default();
    let mut received = 0;
    for chunk in bytes.chunks(1_000) {
        received += chunk.len();
        let payloads = receive(&mut assembler, chunk).unwrap();
        assert_eq!(payloads.len(), usize::from(received == bytes.len()));
        assert!(assembler.capacity_bytes() <= 2 * received);
        assert!(assembler.capacity_bytes() <= FRAME_SIZE_BYTES_MAX);
    }
    assert!(receive(&mut assembler, &[]).unwrap().is_empty());
    assert!(assembler.capacity_bytes() <= FRAME_BUFFER_KEPT_SIZE_BYTES_MAX, "it was given back");
}

#[test]
fn unfinished_frame_is_seen_at_the_end_of_a_stream() {
    let mut assembler = Assembler::default();
    assembler.keep(&[0]);
    assert!(!assembler.is_empty());
}

#[test]
fn written_frames_are_read_back() {
    let mut out = BytesMut::from(&b"before"[..]);
    let start = begin(&mut out, Flag::Hello);
    out.extend_from_slice(b"payload");
    finish(&mut out, start);
    assert_eq!(&out[..], [b"before".to_vec(), frame(2, b"payload")].concat());

    let name = crate::proto::atomix::primitive::Name { name: "a".into(), ..Default::default() };
    let mut out = BytesMut::new();
    encode(&mut out, Flag::Message, &name);
    assert_eq!(&out[..], frame(0, &prost::Message::encode_to_vec(&name)));
}

#[test]
#[should_panic(expected = "longer than what we may send")]
fn frames_that_no_one_would_accept_are_not_sent() {
    let mut out = BytesMut::new();
    let start = begin(&mut out, Flag::Message);
    out.resize(FRAME_SENT_SIZE_BYTES_MAX + 1, 0);
    finish(&mut out, start);
}
