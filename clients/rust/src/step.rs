//! One optimizer step: what a caller asks for, and its result.

use std::ops::Deref;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::layout::{Layout, check_shape, check_type};
use crate::payload::Payload;
use crate::tensor::{Tensor, Tensors, shape_of};
use crate::v1::{self, DataType, ErrorReason};

/// One step: gradients by tensor name, and options in the form of the contract.
///
/// ```
/// # use optserve::{Step, v1};
/// let gradient = vec![0.5_f32; 3];
/// let mut step = Step::new([("w", &gradient)]).pull();
/// step.options.expected_step = Some(7);
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Step<'a> {
    /// Options of the step: `expected_step`, `loss_scale`, `overrides`, `validate_only`, and of a member
    /// `example_count`, `completed_shards` and `parameters_step`; the latter is by default the step of the
    /// parameters that the handle has received last. The client sets the other fields.
    pub options: v1::StepStart,
    /// Options that steps usually have in common: `gradient_dtype`, `pull` and `per_tensor_norms`. The client
    /// sets the other fields.
    pub plan: v1::StepPlan,
    /// Bounds the wait for the result; the client's bound if unset.
    pub timeout: Option<Duration>,
    gradients: Vec<(String, Tensor<'a>)>,
    sparse: Vec<(String, Tensor<'a>, Tensor<'a>)>,
}

impl<'a> Step<'a> {
    /// A step with the gradients of whole tensors. Tensors that are left out do not change.
    pub fn new<K: Into<String>, V: Into<Tensor<'a>>>(gradients: impl IntoIterator<Item = (K, V)>) -> Self {
        Self {
            options: v1::StepStart::default(),
            plan: v1::StepPlan::default(),
            timeout: None,
            gradients: gradients.into_iter().map(|(name, tensor)| (name.into(), tensor.into())).collect(),
            sparse: Vec::new(),
        }
    }

    /// Adds the gradients of some rows of a tensor. `indices` are int32 or int64; rows that are given more
    /// than once are summed. `values` has a row of the tensor for each index.
    pub fn rows(mut self, name: &str, indices: impl Into<Tensor<'a>>, values: impl Into<Tensor<'a>>) -> Self {
        self.sparse.push((name.to_owned(), indices.into(), values.into()));
        self
    }

    /// Returns all parameters with the result, unless the plan has another pull.
    pub fn pull(mut self) -> Self {
        self.plan.pull.get_or_insert_default();
        self
    }

    /// Checks the step, and makes what is sent of it. `common` has session, worker and epoch; `received` is
    /// the step of the parameters that a member has received last.
    pub(crate) fn prepare(
        self,
        layout: &Layout,
        common: v1::StepPlan,
        received: Option<i64>,
    ) -> Result<PreparedStep<'a>> {
        let Self { options: mut start, mut plan, timeout, gradients, sparse } = self;
        if gradients.is_empty() && sparse.is_empty() {
            return Err(Error::invalid(ErrorReason::FieldRequired, "gradients", "the step has no gradient"));
        }
        (plan.session, plan.worker, plan.worker_epoch) = (common.session, common.worker, common.worker_epoch);
        if start.validate_only {
            plan.worker.clear(); // it needs no sequence
        }
        let sorted = layout.sort(gradients)?;
        plan.tensors = sorted.iter().map(|(position, _)| layout.tensors[*position].name.clone()).collect();
        let mut payload = Payload::new(layout, sorted, plan.gradient_dtype())?;
        for (name, indices, values) in sparse {
            let own = &layout.tensors[layout.position(&name)?];
            let mut shape = shape_of(&own.shape);
            let rows = shape.first_mut().ok_or_else(|| {
                Error::invalid(ErrorReason::ShapeMismatch, &name, format!("{name:?} is a scalar, without rows"))
            })?;
            *rows = indices.count();
            check_shape(&name, &values, &shape)?;
            let wire = if plan.gradient_dtype() == DataType::Unspecified { own.dtype() } else { plan.gradient_dtype() };
            check_type(&name, values.dtype, wire)?;
            payload.push(values.convert(wire), wire);
            start.row_indices.push(indices.into());
            plan.sparse_tensors.push(name);
        }
        start.byte_count = payload.byte_count as u64;
        start.parameters_step = start.parameters_step.or(received);
        Ok(PreparedStep { plan, start, payload, timeout })
    }
}

/// A step that can be sent, as often as necessary.
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

/// The result of a step, with the fields of [`v1::StepResult`].
#[derive(Clone, Debug)]
pub struct StepResult {
    pub(crate) result: v1::StepResult,
    /// Parameters that were pulled, without those that were received in the caller's arrays.
    pub parameters: Tensors,
    /// The step that they belong to: later than the result's if this is a stored result that was sent again.
    pub parameters_step: i64,
}

impl Deref for StepResult {
    type Target = v1::StepResult;

    fn deref(&self) -> &v1::StepResult {
        &self.result
    }
}
