//! Trains a classifier of iris flowers on a server: one dense layer, with five optimizers. It only
//! multiplies matrices; the server computes softmax, loss and their gradients, and takes the steps.
//!
//!     cargo run --example quickstart -- [SERVER] [EPOCHS]

use std::env;
use std::error::Error;
use std::io::Write;
use std::time::Instant;

use optserve::v1::{
    self, AdagradSpec, AdamSpec, Convention, MeanSquaredErrorSpec, MomentumSpec, OptimizerSpec, RmspropSpec, SgdSpec,
    SoftmaxSpec, TruncatedNormalSpec,
};
use optserve::{Client, Session, Step, Tensor, initialized};

const FEATURES: usize = 4;
const CLASSES: usize = 3;
const TEST_COUNT: usize = 30;
const BATCH_SIZE: usize = 32;
const LEARNING_RATE: Option<f64> = Some(0.1);

/// The shuffle of the Python demo, `numpy.random.default_rng(0).permutation(150)`, so that the numbers of
/// both are the same.
const ORDER: [usize; 150] = [
    71, 108, 54, 118, 130, 52, 64, 110, 119, 42, 87, 72, 116, 85, 5, 91, 53, 16, 39, 123, 106, 98, 99, 97, 102, 13,
    129, 140, 74, 134, 136, 148, 147, 1, 84, 2, 132, 11, 37, 122, 93, 131, 23, 139, 48, 38, 36, 68, 20, 145, 34, 10,
    27, 50, 124, 25, 43, 144, 8, 117, 44, 9, 111, 92, 22, 19, 125, 90, 142, 126, 88, 4, 55, 75, 17, 80, 3, 83, 109, 15,
    100, 30, 66, 35, 107, 81, 137, 28, 82, 18, 6, 67, 65, 94, 24, 133, 57, 21, 105, 114, 103, 47, 0, 60, 70, 62, 45,
    86, 63, 26, 51, 101, 112, 49, 128, 146, 41, 40, 96, 135, 61, 12, 79, 141, 32, 56, 89, 46, 58, 14, 73, 138, 143,
    115, 31, 104, 77, 76, 7, 149, 69, 113, 127, 121, 78, 120, 59, 29, 33, 95,
];

/// Flowers: a row of features and the class of each.
struct Examples<'a> {
    inputs: &'a [f32],
    labels: &'a [usize],
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let client = Client::connect(&arguments.next().unwrap_or_default()).await?;
    let epochs = arguments.next().map_or(Ok(500), |epochs| epochs.parse())?;
    let (inputs, labels) = load()?;
    let (train, test) = labels.split_at(ORDER.len() - TEST_COUNT);
    let split = train.len() * FEATURES;
    let train = Examples { inputs: &inputs[..split], labels: train };
    let test = Examples { inputs: &inputs[split..], labels: test };

    let optimizers: [(&str, OptimizerSpec); 5] = [
        ("SGD", SgdSpec { learning_rate: LEARNING_RATE }.into()),
        ("momentum", MomentumSpec { learning_rate: LEARNING_RATE, ..Default::default() }.into()),
        ("AdaGrad", AdagradSpec { learning_rate: LEARNING_RATE, ..Default::default() }.into()),
        ("RMSProp", RmspropSpec { learning_rate: LEARNING_RATE, ..Default::default() }.into()),
        ("Adam", AdamSpec { learning_rate: LEARNING_RATE, ..Default::default() }.into()),
    ];
    let mut table = format!("{:<12}{:>12}{:>16}{:>10}\n", "optimizer", "final loss", "test accuracy", "steps/s");
    for (name, optimizer) in optimizers {
        let optimizer = OptimizerSpec { convention: Convention::Lecture.into(), ..optimizer };
        let mut model = Model::new(&client, optimizer).await?;
        let (begin, mut loss) = (Instant::now(), 0.0);
        for epoch in 1..=epochs {
            loss = model.train(&train).await?;
            eprint!("\r{name:<10} epoch {epoch} of {epochs}, loss {loss:.4} ");
            std::io::stderr().flush()?;
        }
        eprintln!();
        let speed = f64::from(model.steps) / begin.elapsed().as_secs_f64();
        let accuracy = 100.0 * model.accuracy(&test);
        table += &format!("{name:<12}{loss:>12.8}{accuracy:>15.1}%{speed:>10.0}\n");
        model.session.delete().await?;
    }
    print!("{table}");
    Ok(())
}

/// Reads the flowers in their order.
fn load() -> Result<(Vec<f32>, Vec<usize>), Box<dyn Error>> {
    let rows: Vec<&str> = include_str!("iris.csv").lines().skip(1).collect();
    let (mut inputs, mut labels) = (Vec::new(), Vec::new());
    for index in ORDER {
        let mut cells = rows[index].split(',');
        for text in cells.by_ref().take(FEATURES) {
            inputs.push(text.parse()?);
        }
        let species = cells.next().ok_or("a row has no species")?;
        let found = ["setosa", "versicolor", "virginica"].iter().position(|name| *name == species);
        labels.push(found.ok_or("an unknown species")?);
    }
    Ok((inputs, labels))
}

/// A dense layer whose parameters are trained in a session.
struct Model<'c> {
    client: &'c Client,
    session: Session,
    weights: Vec<f32>,
    bias: Vec<f32>,
    steps: u32,
}

impl<'c> Model<'c> {
    async fn new(client: &'c Client, optimizer: OptimizerSpec) -> optserve::Result<Self> {
        let small = TruncatedNormalSpec { stddev: Some(0.1), ..Default::default() };
        let parameters = [
            initialized("weights", &[FEATURES as i64, CLASSES as i64], small),
            initialized("bias", &[CLASSES as i64], small),
        ];
        let session = client.create_session(optimizer, parameters).await?;
        let (mut weights, mut bias) = (vec![0.0; FEATURES * CLASSES], vec![0.0; CLASSES]);
        let into = [("weights", &mut weights), ("bias", &mut bias)];
        session.pull_into(Default::default(), into).await?;
        Ok(Self { client, session, weights, bias, steps: 0 })
    }

    /// Takes a step with each batch, and returns the mean loss.
    async fn train(&mut self, examples: &Examples<'_>) -> optserve::Result<f64> {
        let (mut sum, mut count) = (0.0, 0.0);
        let batches = examples.inputs.chunks(BATCH_SIZE * FEATURES).zip(examples.labels.chunks(BATCH_SIZE));
        for (inputs, labels) in batches {
            let (loss, weights, bias) = self.gradients(&Examples { inputs, labels }).await?;
            let step = Step::new([("weights", &weights), ("bias", &bias)]);
            let into = [("weights", &mut self.weights), ("bias", &mut self.bias)];
            self.session.step_into(step, into).await?;
            (sum, count) = (sum + loss, count + 1.0);
            self.steps += 1;
        }
        Ok(sum / count)
    }

    /// Goes backwards through loss, softmax and dense layer.
    async fn gradients(&self, batch: &Examples<'_>) -> optserve::Result<(f64, Vec<f32>, Vec<f32>)> {
        let shape = [batch.labels.len(), CLASSES];
        let z = self.logits(batch);
        let input = Some(Tensor::new(&z).with_shape(&shape).into());
        let activation = Some(SoftmaxSpec::default().into());
        let request = v1::ComputeActivationRequest { activation, input, slope: None };
        let v1::ComputeActivationResponse { output: prediction, activation } = self.client.call(request).await?;

        let mut target = vec![0.0_f32; shape[0] * CLASSES];
        for (row, label) in target.chunks_mut(CLASSES).zip(batch.labels) {
            row[*label] = 1.0;
        }
        let target = Some(Tensor::new(&target).with_shape(&shape).into());
        let loss = Some(MeanSquaredErrorSpec::default().into());
        let request = v1::ComputeLossRequest { loss, prediction, target, gradient: true, ..Default::default() };
        let loss = self.client.call(request).await?;

        let (input, output_gradient) = (Some(Tensor::new(&z).with_shape(&shape).into()), loss.gradient);
        let request = v1::ComputeActivationGradientRequest { activation, input, output_gradient, slope: None };
        let gradient = Tensor::try_from(self.client.call(request).await?.input_gradient.unwrap_or_default())?;
        let dz = gradient.as_slice::<f32>().unwrap_or_default();
        let (mut weights, mut bias) = (vec![0.0_f32; FEATURES * CLASSES], vec![0.0_f32; CLASSES]);
        for (inputs, dz) in batch.inputs.chunks(FEATURES).zip(dz.chunks(CLASSES)) {
            for (class, dz) in dz.iter().enumerate() {
                bias[class] += dz;
                for (feature, input) in inputs.iter().enumerate() {
                    let weight = &mut weights[feature * CLASSES + class];
                    *weight = input.mul_add(*dz, *weight);
                }
            }
        }
        Ok((loss.value.unwrap_or(f64::NAN), weights, bias))
    }

    /// The outputs of the dense layer. Products are added with one rounding, as the matrix products of the
    /// Python demo do.
    fn logits(&self, batch: &Examples<'_>) -> Vec<f32> {
        let mut z = Vec::with_capacity(batch.labels.len() * CLASSES);
        for inputs in batch.inputs.chunks(FEATURES) {
            for class in 0..CLASSES {
                let products = inputs.iter().zip(self.weights[class..].iter().step_by(CLASSES));
                let sum = products.fold(0.0_f32, |sum, (input, weight)| input.mul_add(*weight, sum));
                z.push(sum + self.bias[class]);
            }
        }
        z
    }

    /// The share of flowers whose largest logit is that of their class.
    fn accuracy(&self, test: &Examples<'_>) -> f64 {
        let z = self.logits(test);
        let is_correct = |(row, label): &(&[f32], &usize)| {
            let best = (0..CLASSES).fold(0, |best, class| if row[class] > row[best] { class } else { best });
            best == **label
        };
        let correct = z.chunks(CLASSES).zip(test.labels).filter(is_correct).count();
        correct as f64 / test.labels.len() as f64
    }
}
