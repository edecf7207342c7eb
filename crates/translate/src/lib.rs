//! From a validated StatefulService to Kubernetes objects: pure, no I/O, no clock.
