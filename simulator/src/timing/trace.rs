//! A timing run as Chrome trace events, which Perfetto opens: one track per region, one slice per
//! phase, cycles shown as microseconds.

use serde_json::{Value, json};

use super::report::TimingReport;

/// The trace as JSON (`traceEvents` form of the Trace Event Format).
pub fn chrome_trace(report: &TimingReport, phase_names: &dyn Fn(usize) -> Vec<String>) -> Value {
    let mut events = Vec::new();
    for (i, region) in report.regions.iter().enumerate() {
        let tid = i + 1;
        events.push(json!({
            "ph": "M", "name": "thread_name", "pid": 1, "tid": tid, "args": {"name": region.name}
        }));
        events.push(json!({
            "ph": "X", "name": region.name, "cat": "region", "pid": 1, "tid": tid,
            "ts": region.start, "dur": region.end.saturating_sub(region.start)
        }));
        let names = phase_names(i);
        let mut at = region.start;
        for (name, &end) in names.iter().zip(&region.phase_ends) {
            if end > at {
                events.push(json!({
                    "ph": "X", "name": name, "cat": "phase", "pid": 1, "tid": tid,
                    "ts": at, "dur": end - at
                }));
                at = end;
            }
        }
    }
    let name = format!("{} token at {} (1 us = 1 cycle)", report.target, report.pos);
    events.push(json!({"ph": "M", "name": "process_name", "pid": 1, "args": {"name": name}}));
    json!({"displayTimeUnit": "ms", "traceEvents": events})
}
