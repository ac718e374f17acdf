//! Addresses: on the wire and as text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ssr::wire::{Address, AddressRef};

fuzz_target!(|bytes: &[u8]| {
    match AddressRef::parse(bytes) {
        Ok(Some((address, len))) => {
            assert!(len <= bytes.len() && len <= Address::MAX_LEN && len == address.encoded_len());
            let mut again = [0; Address::MAX_LEN];
            assert_eq!(address.encode(&mut again), Some(len));
            assert_eq!(again[..len], bytes[..len]);
            // What follows is ignored, and fewer bytes are not enough.
            assert_eq!(AddressRef::parse(&bytes[..len]), Ok(Some((address, len))));
            for cut in 0..len {
                assert_eq!(AddressRef::parse(&bytes[..cut]), Ok(None));
                assert_eq!(address.encode(&mut again[..cut]), None);
            }
        }
        Ok(None) => assert!(bytes.len() < Address::MAX_LEN),
        Err(_) => {
            // More bytes do not undo an error.
            assert!(AddressRef::parse(&[bytes, &[0; 300]].concat()).is_err());
        }
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(address) = text.parse::<Address>() {
        let shown = address.to_string();
        assert_eq!(shown.parse::<Address>().as_ref(), Ok(&address), "{shown:?}");
    }
});
