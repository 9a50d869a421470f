//! Work on text that nobody vouches for, with limits that hold whatever the work is.
//!
//! Steps are counted by minijinja, but not what a step costs: comparing or printing a value that holds
//! another one a million times over takes one. The work therefore runs on a thread of its own, whose
//! processor time and memory are measured from outside. A thread cannot be ended, so one that exceeds a
//! limit is left behind: where it asks for more memory it sleeps for ever, and its owner must not start
//! the same work again.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::sync::Arc;
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use crate::failure::{Failure, Kind};

const MEMORY_BYTES_MAX: i64 = 400 << 20;
const PROCESSOR_SECONDS_MAX: i64 = 4;
/// Parsers are recursive, and so is the end of a value: a template can nest lists for as long as it has
/// steps. The memory is only reserved, not used.
const STACK_BYTES: usize = 1 << 30;
const LOOK_EVERY: Duration = Duration::from_millis(50);

const RUNNING: u8 = 0;
const DONE: u8 = 1;
const OVER_MEMORY: u8 = 2;

struct Meter {
    used_bytes: AtomicI64,
    state: AtomicU8,
    waiter: Thread,
}

impl Meter {
    fn tell(&self, state: u8) {
        self.state.store(state, Ordering::Release);
        self.waiter.unpark();
    }
}

thread_local! {
    /// The meter of a watched thread; null on all others.
    static METER: Cell<*const Meter> = const { Cell::new(std::ptr::null()) };
}

/// The system's allocator, which counts on watched threads.
struct CountingAllocator;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

fn count(bytes: i64) {
    let meter = METER.try_with(Cell::get).unwrap_or(std::ptr::null());
    // SAFETY: a watched thread keeps its meter until after it has taken the pointer away.
    let Some(meter) = (unsafe { meter.as_ref() }) else {
        return;
    };
    let used = meter.used_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
    if bytes > 0 && used > MEMORY_BYTES_MAX {
        meter.tell(OVER_MEMORY);
        loop {
            // SAFETY: waits for a signal, and for the next one.
            unsafe { libc::pause() };
        }
    }
}

fn size(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX / 2)
}

// SAFETY: every call goes on to the system's allocator as it came.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(size(layout.size()));
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(size(layout.size()));
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-size(layout.size()));
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // The old block may be there until the new one is filled.
        count(size(new_size));
        count(-size(layout.size()));
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

/// Says that the work has ended, by a panic too.
struct End<'a>(&'a Meter);

impl Drop for End<'_> {
    fn drop(&mut self) {
        METER.set(std::ptr::null());
        self.0.tell(DONE);
    }
}

fn processor_seconds<R>(handle: &JoinHandle<R>) -> i64 {
    let mut clock: libc::clockid_t = 0;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the thread was not joined, and both places are writable.
    let failed = unsafe {
        libc::pthread_getcpuclockid(handle.as_pthread_t(), &mut clock) != 0
            || libc::clock_gettime(clock, &mut time) != 0
    };
    // A thread that has ended has no clock, and is about to say so.
    if failed {
        0
    } else {
        time.tv_sec
    }
}

/// Runs `body` on a thread with a deep stack and within the limits. `Kind::Exhausted` when it exceeds one:
/// then it was left behind.
pub fn run<R: Send + 'static>(
    thread_name: &str,
    body: impl FnOnce() -> Result<R, Failure> + Send + 'static,
) -> Result<R, Failure> {
    let meter = Arc::new(Meter {
        used_bytes: AtomicI64::new(0),
        state: AtomicU8::new(RUNNING),
        waiter: std::thread::current(),
    });
    let of_thread = Arc::clone(&meter);
    let handle = std::thread::Builder::new()
        .name(thread_name.into())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            let _end = End(&of_thread);
            METER.set(Arc::as_ptr(&of_thread));
            body()
        })
        .map_err(|error| Failure::new(Kind::Failed, format!("cannot start a thread: {error}")))?;
    loop {
        match meter.state.load(Ordering::Acquire) {
            DONE => {
                return handle
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            }
            OVER_MEMORY => {
                let message = format!("more than {MEMORY_BYTES_MAX} bytes of memory");
                return Err(Failure::new(Kind::Exhausted, message));
            }
            _ if processor_seconds(&handle) >= PROCESSOR_SECONDS_MAX => {
                let message = format!("more than {PROCESSOR_SECONDS_MAX} s of processor time");
                return Err(Failure::new(Kind::Exhausted, message));
            }
            _ => std::thread::park_timeout(LOOK_EVERY),
        }
    }
}
