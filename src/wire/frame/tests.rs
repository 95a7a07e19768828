use super::*;

fn frame(flag: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![flag];
    bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

#[test]
fn frames_are_found_one_behind_the_other() {
    let mut bytes = frame(0, b"first");
    bytes.extend(frame(2, b""));
    bytes.extend(&frame(0, b"third")[..7]);
    let mut found = Vec::new();
    let mut at = 0;
    while let Some((header, payload)) = next(&bytes[at..]).unwrap() {
        found.push((header.flag, bytes[at..][payload.clone()].to_vec()));
        at += payload.end;
    }
    assert_eq!(found, [(Flag::Message, b"first".to_vec()), (Flag::Hello, Vec::new())]);
    assert_eq!(&bytes[at..], &frame(0, b"third")[..7]);
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
    assert_eq!(next(&[4]), Err(FrameError::FlagUnknown { flag: 4 }));
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
        for len in 0..bytes.len() {
            assert_eq!(next(&bytes[..len]), Ok(None), "{len} bytes say nothing yet");
        }
    }
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
