//! What was sent and what has come, by DSCP: the live traffic as the probe of one stream among several.
//!
//! WireGuard's numbers ([`super::Arrivals`]) are of all that a path carries. Where its packets carry several DSCPs, a number that is
//! missing tells of none of them; and where the underlay has a queue for each, one that waits looks lost when others have
//! overtaken it. So there both ends count by DSCP, and each probe of a stream carries what had been sent of it before, and brings
//! back what had come of that: the probe went the same way, in the same queue. Of what is missing between two answers nobody
//! knows where it was: it counts as lost in one go.

use super::arrivals::Counts;

/// DSCPs there are.
const ALL: usize = 64;

/// Packets of one path since it began to be counted, by DSCP; wrapping.
#[derive(Clone, Debug)]
pub struct ByDscp {
    sent: [u32; ALL],
    received: [u32; ALL],
}

impl Default for ByDscp {
    fn default() -> ByDscp {
        ByDscp { sent: [0; ALL], received: [0; ALL] }
    }
}

impl ByDscp {
    /// One that carries `dscp`, 0 to 63, was sent.
    pub fn sent(&mut self, dscp: u8) {
        count(&mut self.sent, dscp);
    }

    /// One that carries it has come.
    pub fn received(&mut self, dscp: u8) {
        count(&mut self.received, dscp);
    }

    /// What was sent, and what has come, of these: a bit for each DSCP, the lowest for 0.
    pub fn of(&self, dscps: u64) -> [u32; 2] {
        [&self.sent, &self.received].map(|counts| {
            let counts = counts.iter().enumerate().filter(|(dscp, _)| dscps >> dscp & 1 == 1);
            counts.fold(0_u32, |sum, (_, count)| sum.wrapping_add(*count))
        })
    }
}

fn count(counts: &mut [u32; ALL], dscp: u8) {
    let count = &mut counts[usize::from(dscp) % ALL];
    *count = count.wrapping_add(1);
}

/// What is lost on one way of one stream, by what was sent before each probe and had come when that came.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    counts: Counts,
    /// Sent and received, as last told.
    last: Option<[u32; 2]>,
    /// What was missing then and may only have been overtaken; below nothing, what had come before its turn.
    missing: i64,
}

impl Tally {
    /// So much had been sent when a probe was, and so much had come when that came; what that makes. What is missing counts as
    /// lost when the next probe has come and it has not.
    pub fn feed(&mut self, sent: u32, received: u32) -> Counts {
        let Some([sent_before, received_before]) = self.last else {
            self.last = Some([sent, received]);
            return self.counts;
        };
        let (sent_since, received_since) =
            (sent.wrapping_sub(sent_before), received.wrapping_sub(received_before));
        // The answer to a later probe has come before.
        if sent_since > u32::MAX / 2 {
            return self.counts;
        }
        self.last = Some([sent, received]);
        // The far end has begun to count anew.
        if received_since > u32::MAX / 2 {
            self.missing = 0;
            return self.counts;
        }
        let step = i64::from(sent_since) - i64::from(received_since);
        let missing = self.missing + step;
        let lost = self.missing.min(missing).max(0);
        let left = missing - lost;
        // What came before its turn is due by the next probe.
        self.missing = if step < 0 { left } else { left.max(0) };
        self.counts.received = self.counts.received.wrapping_add(received_since);
        self.counts.lose(lost as u32, &mut 0);
        self.counts
    }

    /// What becomes of what is under way says nothing.
    pub fn forget(&mut self) {
        (self.last, self.missing) = (None, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is lost, and lost apart, where so many are sent before each probe and so many come.
    fn lost(steps: &[(u32, u32)]) -> (u32, u32) {
        let (mut tally, mut sent, mut received) = (Tally::default(), u32::MAX - 3, 7);
        tally.feed(sent, received);
        let mut counts = Counts::default();
        for (s, r) in steps {
            (sent, received) = (sent.wrapping_add(*s), received + r);
            counts = tally.feed(sent, received);
        }
        (counts.lost, counts.apart)
    }

    #[test]
    fn the_transition_table() {
        // Between one probe and the next: sent and received. What is lost, and apart.
        type Row<'a> = (&'a [(u32, u32)], (u32, u32));
        let table: [Row<'_>; 11] = [
            (&[(3, 3), (3, 3)], (0, 0)),
            // Missing is lost one probe later, and not before.
            (&[(3, 2)], (0, 0)),
            (&[(3, 2), (3, 3)], (1, 1)),
            (&[(3, 2), (3, 2), (3, 3)], (2, 2)),
            (&[(9, 4), (3, 3)], (5, 2)),
            // It was overtaken by the probe, all of it or a part.
            (&[(3, 2), (3, 4), (3, 3)], (0, 0)),
            (&[(3, 1), (3, 4), (3, 3)], (1, 1)),
            // It has overtaken the probe.
            (&[(3, 4), (3, 2), (3, 3)], (0, 0)),
            (&[(3, 4), (3, 1), (3, 3)], (1, 1)),
            // What came too many, from whatever it was, does not hide a later loss.
            (&[(3, 5), (3, 3), (3, 2), (3, 3)], (1, 1)),
            (&[(3, 2), (3, 6), (3, 1), (3, 3)], (0, 0)),
        ];
        for (steps, wanted) in table {
            assert_eq!(lost(steps), wanted, "{steps:?}");
        }
    }

    #[test]
    fn an_answer_that_comes_late_and_a_far_end_that_counts_anew_have_lost_nothing() {
        let mut tally = Tally::default();
        tally.feed(10, 10);
        tally.feed(20, 20);
        assert_eq!(tally.feed(15, 15), tally.feed(20, 20));
        assert_eq!(tally.feed(30, 2).lost, 0);
        assert_eq!(tally.feed(40, 12).lost, 0);
        tally.feed(50, 20);
        assert_eq!(tally.feed(60, 30).lost, 2);
        tally.feed(70, 35);
        tally.forget();
        tally.feed(170, 35);
        assert_eq!(tally.feed(180, 45).lost, 2, "what was under way is forgotten");
    }

    #[test]
    fn counts_are_of_the_dscps_that_are_asked_about() {
        let mut counts = ByDscp::default();
        for dscp in 0..64 {
            (0..=dscp).for_each(|_| counts.sent(dscp));
            counts.received(dscp);
        }
        assert_eq!(counts.of(1 << 46), [47, 1]);
        assert_eq!(counts.of(u64::MAX), [64 * 65 / 2, 64]);
        assert_eq!(counts.of(!(1 << 46)), [64 * 65 / 2 - 47, 63]);
        assert_eq!(counts.of(0), [0, 0]);
    }
}
