//! The most memory that a sidecar can be asked to keep to, given the limit of its container.

use api::contract::ProxyKind;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// The largest heap is named in steps of this.
const STEP: u64 = 16 * MIB;

/// The largest size in place of the one that was asked for, or nothing when none fits; all in bytes.
///
/// Our own proxy wants as much beside its budget as in it. For a JVM it is what the launcher in the pod says of the
/// same heap and limit (`docs/launcher.md`, "A proxy made of jars"), which an end-to-end scenario holds together.
pub(super) fn largest(kind: ProxyKind, asked: u64, limit: u64) -> Option<u64> {
    let largest = match kind {
        ProxyKind::Native => limit / 2 / MIB * MIB,
        ProxyKind::Jvm => limit.saturating_sub(beside_a_heap(asked, limit)) / STEP * STEP,
    };
    // Less is refused for being too little.
    (largest >= STEP).then_some(largest)
}

/// Direct buffers, code, classes, threads, collector, the JVM itself and the launcher.
fn beside_a_heap(heap: u64, limit: u64) -> u64 {
    const JVM_AND_LAUNCHER: u64 = (24 + 8) * MIB;
    if limit <= GIB {
        (32 + 48 + 112 + 25) * MIB + heap / 100 + JVM_AND_LAUNCHER
    } else {
        let direct = (64 * MIB).max(heap / 8);
        let threads = 250 * MIB / 8;
        direct + (96 + 128) * MIB + threads + heap / 100 * 6 + JVM_AND_LAUNCHER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_heap_is_what_the_launcher_says() {
        assert_eq!(largest(ProxyKind::Jvm, 1_024 * MIB, 512 * MIB), Some(240 * MIB));
        assert_eq!(largest(ProxyKind::Jvm, 2 * GIB, 2 * GIB), Some(1_376 * MIB));
        assert_eq!(largest(ProxyKind::Jvm, 64 * MIB, 64 * MIB), None);
    }

    #[test]
    fn our_own_proxy_may_have_half() {
        assert_eq!(largest(ProxyKind::Native, 2 * GIB, 512 * MIB), Some(256 * MIB));
        assert_eq!(largest(ProxyKind::Native, 2 * GIB, 31 * MIB), None);
    }
}
