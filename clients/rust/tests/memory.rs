//! Bounds what a step allocates besides the caller's slices. A program of its own, because it counts
//! every allocation.

#[path = "it/server.rs"]
mod server;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use optserve::Step;

struct Counter;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counter {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTER: Counter = Counter;

#[tokio::test]
async fn a_step_of_100_mb() {
    const ELEMENTS: usize = 25_000_000;
    const LIMIT: usize = 8 << 20;
    let client = server::connect(server::shared()).await;
    let mut w = vec![0.0_f32; ELEMENTS];
    let mut session = server::session(&client, server::sgd(1.0), &w).await;
    let gradient = vec![1.0_f32; ELEMENTS];
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    for _ in 0..2 {
        session.step_into(Step::new([("w", &gradient)]), [("w", &mut w)]).await.unwrap();
    }
    let above = PEAK.load(Ordering::Relaxed) - before;
    println!("{above} bytes above the arrays of the caller");
    assert!(above < LIMIT, "{above} bytes above the arrays of the caller");
    assert!(w.iter().all(|element| *element == -2.0));
    session.delete().await.unwrap();
}
