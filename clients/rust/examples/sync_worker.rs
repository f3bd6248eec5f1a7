//! Two workers that train one session together: each contributes the gradient of its own examples, and
//! the server aggregates both to one step (SYNC).
//!
//!     cargo run --example sync_worker -- [SERVER]
//!
//! A worker is usually a program of its own, which gets the name of the session. Here both are tasks.

use std::env;
use std::error::Error;
use std::time::Duration;

use optserve::v1::{CoordinationSpec, CoordinationSync, ErrorReason, OptimizerSpec, SessionSpec, SgdSpec};
use optserve::{Client, Step, value};

const WORKERS: usize = 2;
const STEPS: usize = 200;
/// Points of the line y = 2x + 1; each worker has its half of them.
const POINTS: [(f64, f64); 4] = [(0.0, 1.0), (1.0, 3.0), (2.0, 5.0), (3.0, 7.0)];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = Client::connect(&env::args().nth(1).unwrap_or_default()).await?;
    let sgd = SgdSpec { learning_rate: Some(0.1) };
    let sync = CoordinationSync { min_replicas: Some(WORKERS as i32), ..Default::default() };
    let spec = SessionSpec { coordination: Some(CoordinationSpec::from(sync)), ..OptimizerSpec::from(sgd).into() };
    let session = client.create_session(spec, [value("line", &[0.0_f64; 2])]).await?;

    let tasks: Vec<_> =
        (0..WORKERS).map(|number| tokio::spawn(work(client.clone(), session.name().to_owned(), number))).collect();
    for task in tasks {
        task.await??;
    }
    let mut line = [0.0; 2];
    let found = session.pull_into(Default::default(), [("line", &mut line)]).await?;
    println!("y = {:.3} x + {:.3} after {} steps of {WORKERS} workers", line[0], line[1], found.step);
    session.delete().await?;
    Ok(())
}

/// One worker. Its name continues where an earlier program of the same name was.
async fn work(client: Client, session: String, number: usize) -> optserve::Result<()> {
    let mut session = client.session_as(&session, &format!("worker-{number}")).await?;
    let lease = Some(Duration::from_secs(10));
    let membership = session.join(lease).await?;
    println!("worker {number} has joined in epoch {}", membership.epoch);
    let points = &POINTS[number * 2..][..2];
    let mut line = [0.0; 2];
    session.pull_into(Default::default(), [("line", &mut line)]).await?;
    for _ in 0..STEPS {
        let mut gradient = [0.0; 2];
        for (x, y) in points {
            let residual = line[0] * x + line[1] - y;
            gradient[0] += residual * x / points.len() as f64;
            gradient[1] += residual / points.len() as f64;
        }
        match session.step_into(Step::new([("line", &gradient)]), [("line", &mut line)]).await {
            Ok(_) => {}
            Err(error) if matches!(error.reason, ErrorReason::Fenced | ErrorReason::NotAMember) => {
                // The lease ran out. The next gradient is computed with the current parameters.
                session.join(lease).await?;
                session.pull_into(Default::default(), [("line", &mut line)]).await?;
            }
            Err(error) => return Err(error),
        }
    }
    session.leave().await
}
