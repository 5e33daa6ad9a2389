//! How a call over a path would sound: the E-model's R (ITU-T G.107) for G.711 with packet-loss concealment, and the mean
//! opinion score that people give a call of that R.

use std::time::Duration;

/// R of a call that is spoilt by nothing but the codec's quantising and the room: G.107's defaults.
const UNSPOILT: f64 = 93.2;
/// A packet's worth of speech is collected before it can leave.
const PACKETISATION: Duration = Duration::from_millis(20);
/// The receiver's buffer holds so many mean deviations of the delay.
const BUFFERED_JITTERS: u32 = 2;
/// How robust G.711 with concealment is to random loss (ITU-T G.113 appendix I): packet-loss robustness factor Bpl; its own
/// impairment Ie is 0.
const ROBUSTNESS: f64 = 25.1;

/// The score, 1 to 4.4, of a call over a path with this one-way `latency`, `jitter` (RFC 3550) and `loss` (0 to 1). 4 is
/// good, 3.6 bearable, below 3.1 nearly everybody complains.
pub fn mos(latency: Duration, jitter: Duration, loss: f64) -> f64 {
    let delay = (latency + jitter * BUFFERED_JITTERS + PACKETISATION).as_secs_f64() * 1e3;
    // G.107's Idd, as Cole and Rosenbluth approximate it: people notice from 177 ms on that they talk at once.
    let by_delay = 0.024 * delay + 0.11 * (delay - 177.3).max(0.0);
    let loss = loss.clamp(0.0, 1.0) * 100.0;
    let by_loss = 95.0 * loss / (loss + ROBUSTNESS);
    // G.107 annex B.
    match UNSPOILT - by_delay - by_loss {
        r if r <= 0.0 => 1.0,
        r => (1.0 + 0.035 * r + r * (r - 60.0) * (100.0 - r) * 7e-6).max(1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(latency_ms: u64, jitter_ms: u64, loss: f64) -> f64 {
        let ms = Duration::from_millis;
        (mos(ms(latency_ms), ms(jitter_ms), loss) * 100.0).round() / 100.0
    }

    #[test]
    fn scores_are_those_of_the_e_model() {
        // R = 93.2 - 0.024 * 20 = 92.72, and so on, by hand.
        assert_eq!(score(0, 0, 0.0), 4.4);
        assert_eq!(score(130, 0, 0.0), 4.33);
        assert_eq!(score(380, 0, 0.0), 3.05);
        assert_eq!(score(30, 0, 0.01), 4.3);
        assert_eq!(score(30, 0, 0.1), 3.35);
        assert_eq!(score(5_000, 0, 1.0), 1.0);
    }

    #[test]
    fn every_impairment_makes_it_worse() {
        for (latency, jitter, loss) in [(0, 0, 0.0), (100, 10, 0.01), (250, 40, 0.05)] {
            let now = score(latency, jitter, loss);
            for worse in [
                score(latency + 100, jitter, loss),
                score(latency, jitter + 60, loss),
                score(latency, jitter, loss + 0.02),
            ] {
                assert!(worse < now, "{worse} after {now}");
            }
        }
    }
}
