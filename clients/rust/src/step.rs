//! One optimizer step: what a caller asks for, and its result.

use std::ops::Deref;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::layout::{Layout, check_shape, check_type};
use crate::payload::Payload;
use crate::tensor::{TensorView, Tensors, shape_of};
use crate::v1::{self, DataType, ErrorReason};

/// One step: gradients by tensor name, and options.
///
/// ```
/// # use optserve::{Step, v1::PullOptions};
/// let gradient = vec![0.5_f32; 3];
/// let step = Step::new([("w", &gradient)]).pull(PullOptions::default()).expected_step(7);
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Step<'a> {
    gradients: Vec<(String, TensorView<'a>)>,
    sparse: Vec<(String, TensorView<'a>, TensorView<'a>)>,
    start: v1::StepStart,
    gradient_dtype: DataType,
    pull: Option<v1::PullOptions>,
    per_tensor_norms: bool,
    timeout: Option<Duration>,
}

impl<'a> Step<'a> {
    /// A step with the gradients of whole tensors. Tensors that are left out do not change.
    pub fn new<K, V>(gradients: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<String>,
        V: Into<TensorView<'a>>,
    {
        Self {
            gradients: gradients.into_iter().map(|(name, view)| (name.into(), view.into())).collect(),
            sparse: Vec::new(),
            start: v1::StepStart::default(),
            gradient_dtype: DataType::Unspecified,
            pull: None,
            per_tensor_norms: false,
            timeout: None,
        }
    }

    /// Adds the gradients of some rows of a tensor. `indices` are int32 or int64; rows that are given
    /// more than once are summed. `values` has a row of the tensor for each index.
    pub fn rows(
        mut self,
        name: impl Into<String>,
        indices: impl Into<TensorView<'a>>,
        values: impl Into<TensorView<'a>>,
    ) -> Self {
        self.sparse.push((name.into(), indices.into(), values.into()));
        self
    }

    /// Returns parameters with the result.
    pub fn pull(mut self, options: v1::PullOptions) -> Self {
        self.pull = Some(options);
        self
    }

    /// Sends gradients as float16, bfloat16, float32 or float64; as the type of each tensor by default.
    pub fn gradient_dtype(mut self, dtype: DataType) -> Self {
        self.gradient_dtype = dtype;
        self
    }

    /// Rejects the step unless the session is at a step.
    pub fn expected_step(mut self, step: i64) -> Self {
        self.start.expected_step = Some(step);
        self
    }

    /// Divides gradients by the factor of the loss.
    pub fn loss_scale(mut self, scale: f64) -> Self {
        self.start.loss_scale = Some(scale);
        self
    }

    /// Gives a hyperparameter another value in this step alone, in every parameter group.
    pub fn set(self, hyperparameter: impl Into<String>, value: f64) -> Self {
        let name = hyperparameter.into();
        self.overrides([v1::HyperparameterOverride { group: None, name, value }])
    }

    /// Gives hyperparameters other values in this step alone; later ones replace earlier ones.
    pub fn overrides(mut self, overrides: impl IntoIterator<Item = v1::HyperparameterOverride>) -> Self {
        self.start.overrides.extend(overrides);
        self
    }

    /// Checks and measures the step, and applies nothing.
    pub fn validate_only(mut self) -> Self {
        self.start.validate_only = true;
        self
    }

    /// Returns the norm of each tensor's gradient.
    pub fn per_tensor_norms(mut self) -> Self {
        self.per_tensor_norms = true;
        self
    }

    /// Of a member: number of examples that the gradient was computed of.
    pub fn example_count(mut self, count: u64) -> Self {
        self.start.example_count = Some(count);
        self
    }

    /// Of a member: the step of the parameters that the gradient was computed at; the step of those
    /// that the handle has received last by default.
    pub fn parameters_step(mut self, step: i64) -> Self {
        self.start.parameters_step = Some(step);
        self
    }

    /// Of a member: numbers of the data shards that the gradient was computed of.
    pub fn completed_shards(mut self, shards: impl IntoIterator<Item = i64>) -> Self {
        self.start.completed_shards.extend(shards);
        self
    }

    /// Bounds the wait for the result; the client's bound by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Pulls all parameters unless the step has a pull.
    pub(crate) fn pull_by_default(mut self) -> Self {
        self.pull.get_or_insert_default();
        self
    }

    /// Checks the step, and makes what is sent of it. `member` is the epoch, and the step of the
    /// parameters that the handle has received last.
    pub(crate) fn prepare(
        self,
        layout: &Layout,
        session: &str,
        worker: &str,
        member: Option<(u64, i64)>,
    ) -> Result<PreparedStep<'a>> {
        let Self { gradients, sparse, mut start, gradient_dtype, pull, per_tensor_norms, timeout } = self;
        if gradients.is_empty() && sparse.is_empty() {
            return Err(Error::invalid(ErrorReason::FieldRequired, "gradients", "the step has no gradient"));
        }
        let sorted = layout.sort(gradients)?;
        let name_of = |position: usize| layout.tensors[position].name.clone();
        let tensors = sorted.iter().map(|(position, _)| name_of(*position)).collect();
        let mut payload = Payload::new(layout, sorted, gradient_dtype)?;
        let mut sparse_tensors = Vec::with_capacity(sparse.len());
        for (name, indices, values) in sparse {
            let own = &layout.tensors[layout.position(&name)?];
            let mut shape = shape_of(&own.shape);
            if shape.is_empty() {
                let message = format!("{name:?} is a scalar, which has no rows");
                return Err(Error::invalid(ErrorReason::ShapeMismatch, &name, message));
            }
            shape[0] = indices.len();
            check_shape(&name, &values, &shape)?;
            let wire = if gradient_dtype == DataType::Unspecified { own.dtype() } else { gradient_dtype };
            check_type(&name, values.dtype, wire)?;
            payload.push(values.convert(wire), wire);
            start.row_indices.push(indices.into());
            sparse_tensors.push(name);
        }
        start.byte_count = payload.byte_count as u64;
        if let Some((_, received)) = member {
            start.parameters_step.get_or_insert(received);
        }
        let plan = v1::StepPlan {
            session: session.to_owned(),
            // A step that is only validated needs no sequence.
            worker: if start.validate_only { String::new() } else { worker.to_owned() },
            worker_epoch: member.map_or(0, |(epoch, _)| epoch),
            tensors,
            sparse_tensors,
            gradient_dtype: gradient_dtype.into(),
            pull,
            region: String::new(),
            per_tensor_norms,
        };
        Ok(PreparedStep { plan, start, payload, timeout })
    }
}

/// A step that can be sent, as often as necessary.
#[derive(Debug)]
pub(crate) struct PreparedStep<'a> {
    pub(crate) plan: v1::StepPlan,
    /// Without its sequence.
    pub(crate) start: v1::StepStart,
    pub(crate) payload: Payload<'a>,
    pub(crate) timeout: Option<Duration>,
}

impl PreparedStep<'_> {
    pub(crate) fn is_numbered(&self) -> bool {
        !self.start.validate_only
    }
}

/// The result of a step, whose fields are those of [`v1::StepResult`].
#[derive(Clone, Debug)]
pub struct StepResult {
    pub(crate) result: v1::StepResult,
    /// Parameters that were pulled, without those that were received in the caller's arrays.
    pub parameters: Tensors,
    /// The step that they belong to: later than the result's if this is a stored result that was sent
    /// again.
    pub parameters_step: i64,
}

impl Deref for StepResult {
    type Target = v1::StepResult;

    fn deref(&self) -> &v1::StepResult {
        &self.result
    }
}
