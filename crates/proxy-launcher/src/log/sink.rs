//! Where lines of the log go: a thread of its own writes them, so that a reader who has stopped reading never
//! stops the launcher. What finds no room is lost, and counted.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::Duration,
};

use tracing::warn;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait to be written.
const LINES_MAX: usize = 512;
/// How long the end of the process may wait for them.
const FLUSH_PATIENCE: Duration = Duration::from_millis(200);

/// Takes lines; clones share the thread.
#[derive(Clone, Debug)]
pub(crate) struct Sink {
    orders: SyncSender<Order>,
    lost: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Order {
    Line(Vec<u8>),
    /// Answered once all lines before it are written.
    Flush(SyncSender<()>),
}

impl Sink {
    /// Begins to write to `output`.
    pub(crate) fn start(output: impl Write + Send + 'static) -> Self {
        let (orders, ordered) = sync_channel(LINES_MAX);
        let lost = Arc::default();
        let of_thread = Arc::clone(&lost);
        let writer = thread::Builder::new().name("log".to_owned()).stack_size(128 << 10);
        // Without the thread every line is lost; there is nobody to tell.
        drop(writer.spawn(move || write(&ordered, output, &of_thread)));
        Self { orders, lost }
    }

    /// Waits until everything is written that was logged until now, though not for long.
    pub(crate) fn flush(&self) {
        let (done, is_done) = sync_channel(1);
        if self.orders.try_send(Order::Flush(done)).is_ok() {
            // Nobody may wait for who has stopped reading.
            let _ = is_done.recv_timeout(FLUSH_PATIENCE);
        }
    }
}

fn write(ordered: &Receiver<Order>, mut output: impl Write, lost: &AtomicU64) {
    for order in ordered {
        match order {
            // A closed pipe is the reader's wish.
            Order::Line(line) => drop(output.write_all(&line)),
            Order::Flush(done) => drop(done.try_send(())),
        }
        let lost = lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            warn!(lines = lost, "lines of this log are lost, since nobody read it for a while");
        }
    }
}

/// Each write is a line.
impl Write for Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Err(TrySendError::Full(_)) = self.orders.try_send(Order::Line(line.to_vec())) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::*;

    /// Keeps what is written, once the test lets it.
    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_written_in_order_by_the_time_that_a_flush_is_over() {
        let page = Page::default();
        let mut sink = Sink::start(page.clone());
        for number in 0..100 {
            writeln!(sink, "{number}").unwrap();
        }
        Sink::flush(&sink);
        let page = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        assert!(page.lines().eq((0..100).map(|number| number.to_string())), "{page}");
    }

    #[test]
    fn who_does_not_read_stops_nobody_and_costs_lines() {
        let page = Page::default();
        let stopped = page.0.lock().unwrap();
        let mut sink = Sink::start(page.clone());
        for _ in 0..LINES_MAX * 2 {
            sink.write_all(b"line\n").unwrap();
        }
        Sink::flush(&sink);
        assert!(sink.lost.load(Ordering::Relaxed) >= LINES_MAX as u64 - 1);
        drop(stopped);
    }
}
