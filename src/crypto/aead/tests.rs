//! Published vectors, and comparisons of the two backends with each other and with another implementation.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use shadowsocks::crypto::CipherKind;
use shadowsocks::crypto::v1::Cipher as OracleAead;
use shadowsocks::crypto::v2::tcp::TcpCipher as OracleStream;
use shadowsocks::crypto::v2::udp::UdpCipher as OraclePacket;

use super::*;
use crate::crypto::Family;

type Make = fn(Method, &Key) -> Option<Aead>;

const STREAM: [Make; 2] = [Aead::stream, Aead::portable_stream];
const PACKET: [Make; 2] = [Aead::packet, Aead::portable_packet];

/// Every method that encrypts.
fn methods() -> impl Iterator<Item = Method> {
    Method::ALL
        .into_iter()
        .filter(|method| *method != Method::None)
}

/// A key that fits the method.
fn key(method: Method) -> Key {
    Key::from_slice(&(1..=32).collect::<Vec<u8>>()[..method.key_len()]).unwrap()
}

fn kind(method: Method) -> CipherKind {
    method.name().parse().unwrap()
}

/// Bytes whose period is not a power of two.
fn message(len: usize) -> Vec<u8> {
    (0..=250).cycle().take(len).collect()
}

/// `message` sealed: ciphertext ‖ tag.
fn sealed(aead: &Aead, nonce: &[u8], message: &[u8]) -> Vec<u8> {
    let mut data = message.to_vec();
    let tag = aead.seal(nonce, &mut data).unwrap();
    data.extend(tag);
    data
}

/// Checks both directions of one published vector with every given backend.
fn check(
    backends: &[Make],
    method: Method,
    key: &str,
    nonce: &str,
    plain: &str,
    cipher: &str,
    tag: &str,
) {
    let [key, nonce, plain] = [key, nonce, plain].map(|text| hex::decode(text).unwrap());
    for backend in backends {
        let aead = backend(method, &Key::from_slice(&key).unwrap()).unwrap();
        let mut data = sealed(&aead, &nonce, &plain);
        assert_eq!(hex::encode(&data), format!("{cipher}{tag}"));
        assert_eq!(aead.open(&nonce, &mut data).unwrap(), plain);
    }
}

#[test]
fn aes_gcm_agrees_with_published_vectors() {
    // McGrew and Viega, "The Galois/Counter Mode of Operation", test cases 1-3 and 13-15.
    let zeros = "00".repeat(32);
    let nonce = "00".repeat(12);
    let feff = "feffe9928665731c6d6a8f9467308308".repeat(2);
    let cafe = "cafebabefacedbaddecaf888";
    let plain = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
                 1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255";
    for method in [Method::Aes128Gcm, Method::Blake3Aes128Gcm] {
        let check = |key: &str, nonce, plain, cipher, tag| {
            check(&STREAM, method, &key[..32], nonce, plain, cipher, tag)
        };
        check(&zeros, &nonce, "", "", "58e2fccefa7e3061367f1d57a4e7455a");
        check(
            &zeros,
            &nonce,
            &zeros[..32],
            "0388dace60b6a392f328c2b971b2fe78",
            "ab6e47d42cec13bdf53a67b21257bddf",
        );
        let cipher = "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e\
                      21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091473f5985";
        check(
            &feff,
            cafe,
            plain,
            cipher,
            "4d5c2af327cd64a62cf35abd2ba6fab4",
        );
    }
    {
        // Test cases 7-9.
        let method = Method::Aes192Gcm;
        let check = |key: &str, nonce, plain, cipher, tag| {
            check(&STREAM, method, &key[..48], nonce, plain, cipher, tag)
        };
        check(&zeros, &nonce, "", "", "cd33b28ac773f74ba00ed1f312572435");
        check(
            &zeros,
            &nonce,
            &zeros[..32],
            "98e7247c07f0fe411c267e4384b0f600",
            "2ff58d80033927ab8ef4d4587514f0fb",
        );
        let cipher = "3980ca0b3c00e841eb06fac4872a2757859e1ceaa6efd984628593b40ca1e19c\
                      7d773d00c144c525ac619d18c84a3f4718e2448b2fe324d9ccda2710acade256";
        check(
            &feff,
            cafe,
            plain,
            cipher,
            "9924a7c8587336bfb118024db8674a14",
        );
    }
    for method in [Method::Aes256Gcm, Method::Blake3Aes256Gcm] {
        let check =
            |key, nonce, plain, cipher, tag| check(&STREAM, method, key, nonce, plain, cipher, tag);
        check(&zeros, &nonce, "", "", "530f8afbc74536b9a963b4f1c4cb738b");
        check(
            &zeros,
            &nonce,
            &zeros[..32],
            "cea7403d4d606b6e074ec5d3baf39d18",
            "d0d1c8a799996bf0265b98b5d48ab919",
        );
        let cipher = "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
                      8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad";
        check(
            &feff,
            cafe,
            plain,
            cipher,
            "b094dac5d93471bdec1a502270e3cc6c",
        );
    }
}

#[test]
fn chacha20_poly1305_agrees_with_published_vectors() {
    let plain = hex::encode(
        "Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
         sunscreen would be it.",
    );
    let key = hex::encode((0x80..0xa0).collect::<Vec<u8>>());
    // RFC 8439 §2.8.2. It also authenticates associated data, which does not change the ciphertext; the tag without
    // any is OpenSSL's.
    let cipher = "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6\
                  3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36\
                  92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc\
                  3ff4def08e4b7a9de576d26586cec64b6116";
    for method in [Method::ChaCha20Poly1305, Method::Blake3ChaCha20Poly1305] {
        check(
            &STREAM,
            method,
            &key,
            "070000004041424344454647",
            &plain,
            cipher,
            "6a23a4681fd59456aea1d29f82477216",
        );
        // Wycheproof chacha20_poly1305_test, tcId 1.
        check(
            &STREAM,
            method,
            "80ba3192c803ce965ea371d5ff073cf0f43b6a2ab576b208426e11409c09b9b0",
            "4da5bf8dfd5852c1ea12379d",
            "",
            "",
            "76acb342cf3166a5b63c0c0ea1383c8d",
        );
    }
}

#[test]
fn xchacha20_poly1305_agrees_with_published_vectors() {
    // Wycheproof xchacha20_poly1305_test, tcId 2 and 12.
    let vectors = [
        (
            "ab1562faea9f47af3ae1c3d6d030e3af230255dff3df583ced6fbbcbf9d606a9",
            "6a5e0c4617e07091b605a4de2c02dde117de2ebd53b23497",
            "",
            "",
            "e2697ea6877aba39d9555a00e14db041",
        ),
        (
            "7fac2a879ffddf5e36e04e3edcb8aa6be18a8326b28f76b15623307badc1ece2",
            "49875536d4946af49288f36684e25ff35998d50be6bcfcc2",
            "2c4c38f435",
            "2a01d08fe2",
            "9cbe5f3e782f57a33a45b1f4aeeeea6e",
        ),
    ];
    for (key, nonce, plain, cipher, tag) in vectors {
        let method = Method::XChaCha20Poly1305;
        check(&STREAM, method, key, nonce, plain, cipher, tag);
        let method = Method::Blake3ChaCha20Poly1305;
        check(&PACKET, method, key, nonce, plain, cipher, tag);
    }
    // draft-irtf-cfrg-xchacha A.3.1: with associated data, which does not change the ciphertext.
    let key = Key::from_slice(&(0x80..0xa0).collect::<Vec<u8>>()).unwrap();
    let aead = Aead::packet(Method::Blake3ChaCha20Poly1305, &key).unwrap();
    let mut data = *b"Ladies and Gentlemen of the class of '99";
    aead.seal(&(0x40..0x58).collect::<Vec<u8>>(), &mut data)
        .unwrap();
    let cipher = "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb731c7f1b0b4aa644";
    assert_eq!(hex::encode(data), cipher);
}

#[test]
fn backends_agree() {
    for method in methods() {
        for [native, portable] in [STREAM, PACKET] {
            let native = native(method, &key(method)).unwrap();
            let portable = portable(method, &key(method)).unwrap();
            let nonce = &message(24)[..native.nonce_len()];
            for len in (0..=64).chain([1400, 16383, 65535]) {
                let plain = message(len);
                let mut data = sealed(&native, nonce, &plain);
                let mut other = sealed(&portable, nonce, &plain);
                assert_eq!(data, other, "{method} {len}");
                assert_eq!(native.open(nonce, &mut other).unwrap(), plain);
                assert_eq!(portable.open(nonce, &mut data).unwrap(), plain);
            }
        }
    }
}

#[test]
fn refuses_every_flipped_bit() {
    for method in methods() {
        for backend in STREAM.into_iter().chain(PACKET) {
            let aead = backend(method, &key(method)).unwrap();
            let nonce = &mut message(aead.nonce_len());
            let good = sealed(&aead, nonce, b"a short one");
            for bit in 0..good.len() * 8 {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(
                    aead.open(nonce, &mut bad),
                    Err(Error::Unauthenticated),
                    "{method}"
                );
            }
            for bit in 0..nonce.len() * 8 {
                nonce[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(
                    aead.open(nonce, &mut good.clone()),
                    Err(Error::Unauthenticated)
                );
                nonce[bit / 8] ^= 1 << (bit % 8);
            }
            for len in 0..good.len() {
                let mut cut = good[..len].to_vec();
                assert_eq!(aead.open(nonce, &mut cut), Err(Error::Unauthenticated));
            }
            assert_eq!(aead.open(nonce, &mut good.clone()).unwrap(), b"a short one");
        }
    }
}

#[test]
fn refuses_nonces_of_another_length() {
    for method in methods() {
        for backend in STREAM.into_iter().chain(PACKET) {
            let aead = backend(method, &key(method)).unwrap();
            let needed = aead.nonce_len();
            for got in (0..=32).filter(|got| *got != needed) {
                let error = Error::NonceLength { needed, got };
                assert_eq!(aead.seal(&message(got), &mut [0; 8]), Err(error));
                assert_eq!(aead.open(&message(got), &mut [0; 24]), Err(error));
            }
        }
    }
}

#[test]
fn needs_a_key_of_the_right_length() {
    for backend in STREAM.into_iter().chain(PACKET) {
        for method in Method::ALL {
            for len in [16, 24, 32] {
                let aead = backend(method, &Key::from_slice(&vec![3; len]).unwrap());
                assert_eq!(aead.is_some(), len == method.key_len(), "{method} {len}");
            }
        }
    }
}

#[test]
fn streams_agree_with_an_independent_implementation() {
    // The other implementation has no aes-192-gcm.
    for method in methods().filter(|method| *method != Method::Aes192Gcm) {
        let salt = message(method.salt_len());
        let aead = Aead::stream(method, &key(method).session_subkey(method, &salt)).unwrap();
        let mut nonces = NonceCounter::new(aead.nonce_len());
        let mut aead2017 = (method.family() == Family::Aead2017)
            .then(|| OracleAead::new(kind(method), key(method).as_bytes(), &salt));
        let mut aead2022 = (method.family() == Family::Aead2022)
            .then(|| OracleStream::new(kind(method), key(method).as_bytes(), &salt));
        // More than 256 seals, so that the counter carries.
        for len in (0..=300).chain([16383, 65535]) {
            let mut expected = message(len);
            expected.resize(len + TAG_LEN, 0);
            if let Some(oracle) = &mut aead2017 {
                oracle.encrypt_packet(&mut expected);
            }
            if let Some(oracle) = &mut aead2022 {
                oracle.encrypt_packet(&mut expected);
            }
            let data = sealed(&aead, nonces.next().as_slice(), &message(len));
            assert!(data == expected, "{method}, message of {len} bytes");
        }
    }
}

#[test]
fn packets_agree_with_an_independent_implementation() {
    let session: u64 = 0x0123_4567_89ab_cdef;
    for method in methods().filter(|method| method.family() == Family::Aead2022) {
        let subkey = match method {
            Method::Blake3Aes128Gcm | Method::Blake3Aes256Gcm => {
                key(method).session_subkey(method, &session.to_be_bytes())
            }
            _ => key(method),
        };
        let aead = Aead::packet(method, &subkey).unwrap();
        let oracle = OraclePacket::new(kind(method), key(method).as_bytes(), session);
        let nonce = message(aead.nonce_len());
        for len in [0, 1, 64, 1400, 65000] {
            let mut expected = message(len);
            expected.resize(len + TAG_LEN, 0);
            oracle.encrypt_packet(&nonce, &mut expected);
            assert!(
                sealed(&aead, &nonce, &message(len)) == expected,
                "{method} {len}"
            );
        }
    }
}

#[test]
fn nonces_count_from_zero_in_little_endian() {
    let mut counter = NonceCounter::new(12);
    assert_eq!(counter.next().as_slice(), [0; 12]);
    assert_eq!(
        counter.next().as_slice(),
        [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    );
    for _ in 2..256 {
        counter.next();
    }
    assert_eq!(
        counter.next().as_slice(),
        [0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(NonceCounter::new(24).next().as_slice(), [0; 24]);
}

#[test]
fn is_send_and_sync_and_masked() {
    fn shared<T: Send + Sync>(_: &T) {}
    let aead = Aead::stream(Method::Aes128Gcm, &key(Method::Aes128Gcm)).unwrap();
    shared(&aead);
    assert_eq!(format!("{aead:?}"), "Aead(…)");
}

/// `cargo test --release crypto::aead -- --ignored --nocapture`: GB/s and ns of either backend on one core.
#[test]
#[ignore = "a measurement"]
#[allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measurement"
)]
fn measure_speed() {
    const TIME: std::time::Duration = std::time::Duration::from_millis(200);
    println!("Aead has {} bytes", size_of::<Aead>());
    for method in methods() {
        for (name, backend) in [
            ("native", Aead::stream as Make),
            ("portable", Aead::portable_stream),
        ] {
            let aead = backend(method, &key(method)).unwrap();
            let mut nonces = NonceCounter::new(aead.nonce_len());
            for len in [2, 1400, 16384] {
                let mut data = message(len + TAG_LEN);
                let (mut count, start) = (0_u32, std::time::Instant::now());
                while start.elapsed() < TIME {
                    let nonce = nonces.next();
                    let tag = aead.seal(nonce.as_slice(), &mut data[..len]).unwrap();
                    data[len..].copy_from_slice(&tag);
                    aead.open(nonce.as_slice(), &mut data).unwrap();
                    count += 2;
                }
                let each = start.elapsed() / count;
                println!(
                    "{method} {name} {len}: {each:?}, {:.2} GB/s",
                    len as f64 / each.as_nanos() as f64
                );
            }
        }
    }
}
