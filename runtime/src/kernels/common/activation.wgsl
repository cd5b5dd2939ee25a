// Activations, by number (`Activation` in declaration order). Nothing here trusts a driver's tanh or exp far from zero.

// tanh by the exponential, and by its series near zero, where the exponential form cancels.
fn tanh_of(x: f32) -> f32 {
    let size = min(abs(x), 10.0);
    let square = x * x;
    let series = x * (1.0 + square * (-0.33333334 + square * (0.13333334 - square * 0.053968254)));
    let exponential = sign(x) * (1.0 - 2.0 / (exp(2.0 * size) + 1.0));
    return select(exponential, series, size < 0.2);
}

// 1 − Φ(z) for z >= 0: Abramowitz and Stegun 7.1.26, absolute error below 1.5e-7 / 2, small where the tail is small.
fn normal_tail(z: f32) -> f32 {
    let y = min(z, 12.0) * 0.70710678;
    let t = 1.0 / (1.0 + 0.3275911 * y);
    let series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    return 0.5 * series * exp(-y * y);
}

fn activate(kind: u32, x: f32) -> f32 {
    switch kind {
        case 1u: {
            let tail = normal_tail(abs(x));
            return x * select(tail, 1.0 - tail, x >= 0.0);
        }
        case 2u: { return 0.5 * x * (1.0 + tanh_of(0.7978845608 * (x + 0.044715 * x * x * x))); }
        case 3u: { return x / (1.0 + exp(min(-x, 80.0))); }
        case 4u: { return max(x, 0.0); }
        case 5u: { return tanh_of(x); }
        default: { return x; }
    }
}
