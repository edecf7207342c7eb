//! The most memory that a sidecar can be asked to keep to, given the limit of its container.

use api::{
    contract::ProxyKind,
    heap::{Budget, Regions, STEP},
};

const MIB: u64 = 1 << 20;

/// The largest size in place of the one that was asked for, or nothing when none fits; all in bytes.
///
/// Our own proxy wants as much beside its budget as in it. For a JVM it is what the launcher in the pod says of the
/// same heap and limit (`docs/launcher.md`, "A proxy made of jars").
pub(super) fn largest(kind: ProxyKind, asked: u64, limit: u64) -> Option<u64> {
    let largest = match kind {
        ProxyKind::Native => limit / 2 / MIB * MIB,
        ProxyKind::Jvm => Budget::new(asked, Some(limit), Regions::default()).largest_heap()?,
    };
    // Less is refused for being too little.
    (largest >= STEP).then_some(largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

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
