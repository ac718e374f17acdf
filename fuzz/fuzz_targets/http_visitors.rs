//! HTTP visitors of a reverse tunnel: whatever they send, the service reads it as it would have read it of the visitor.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/common/http_oracle.rs"]
mod http_oracle;

fuzz_target!(|bytes: &[u8]| {
    let Some((size, bytes)) = bytes.split_first() else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let visit = http_oracle::visit(bytes, usize::from(*size).max(1));
    runtime.expect("a runtime").block_on(visit);
});
