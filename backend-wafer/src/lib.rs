//! Wafer back end of sparkc: partition, place, route, schedule and emit a placement plan.
