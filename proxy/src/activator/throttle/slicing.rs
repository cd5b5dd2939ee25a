//! How Knative deals pods out among activators (`pkg/activator/net/throttler.go`): the road not taken, kept as the
//! measure for the one that was.

/// The pods of activator `index` among `activators`: a range of its own, and how many are left over for the first ones.
pub fn pick_indices(pods: usize, activators: usize, index: usize) -> (usize, usize, usize) {
    if activators > pods {
        let own = index % pods;
        return (own, own + 1, 0);
    }
    let share = pods / activators;
    (index * share, (index + 1) * share, pods % activators)
}

/// All of them, by number: the range, and one of those left over.
pub fn slice(pods: usize, activators: usize, index: usize) -> Vec<usize> {
    if pods == 0 {
        return Vec::new();
    }
    let (begin, end, left) = pick_indices(pods, activators, index);
    let extra = (index < left).then(|| pods - left + index);
    (begin..end).chain(extra).collect()
}

/// What one activator may send at once where only the service's address is known, and not its pods'.
pub fn capacity(concurrency: usize, pods: usize, activators: usize) -> usize {
    match concurrency * pods {
        0 => 0,
        all => (all / activators.max(1)).max(1),
    }
}
