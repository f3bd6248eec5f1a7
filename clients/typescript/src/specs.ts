/**
 * Builders of specifications: one function for each algorithm of a family, named for its field in the
 * contract. Fields that are left out get the convention's default.
 *
 * ```ts
 * optimizers.adam({ learningRate: 1e-3, convention: Convention.TORCH });
 * schedules.exponential({ initialLearningRate: 0.1, decaySteps: 1000, decayRate: 0.9 });
 * ```
 *
 * @module
 */

import type { DescMessage, Message } from "@bufbuild/protobuf";
import * as v1 from "./v1.js";
import type { Init } from "./values.js";

type Case = { case: string; value: Message };
type CaseOf<T> = T extends Case ? T : never;

/** The fields of an algorithm together with those that its family shares, such as the convention. */
export type AlgorithmInit<S, O extends keyof S, C> = Init<Extract<CaseOf<S[O]>, { case: C }>["value"]> &
  Omit<Init<S>, O>;

/** One builder for each algorithm of a family. */
export type Builders<S, O extends keyof S> = {
  readonly [C in CaseOf<S[O]>["case"]]: (fields?: AlgorithmInit<S, O, C>) => Init<S>;
};

function builders<S, O extends keyof S & string>(family: DescMessage, oneof: O): Builders<S, O> {
  const made: Record<string, (fields?: Record<string, unknown>) => unknown> = {};
  const shared = family.members.filter((member) => member.kind !== "oneof").map((member) => member.localName);
  for (const algorithm of family.oneofs[0]?.fields ?? []) {
    made[algorithm.localName] = (fields = {}) => {
      const outer: Record<string, unknown> = {};
      const inner: Record<string, unknown> = {};
      for (const [name, value] of Object.entries(fields)) {
        (shared.includes(name) ? outer : inner)[name] = value;
      }
      return { ...outer, [oneof]: { case: algorithm.localName, value: inner } };
    };
  }
  return made as Builders<S, O>;
}

/** Optimizers, such as `optimizers.adam({ learningRate: 1e-3 })`. */
export const optimizers = builders<v1.OptimizerSpec, "algorithm">(v1.OptimizerSpecSchema, "algorithm");
/** Learning rates by step, such as `schedules.cosine(...)`. */
export const schedules = builders<v1.ScheduleSpec, "schedule">(v1.ScheduleSpecSchema, "schedule");
/** Losses, such as `losses.meanSquaredError()`. */
export const losses = builders<v1.LossSpec, "loss">(v1.LossSpecSchema, "loss");
/** Activations, such as `activations.softmax({ axis: -1 })`. */
export const activations = builders<v1.ActivationSpec, "activation">(v1.ActivationSpecSchema, "activation");
/** Initializers, such as `initializers.glorot()`. */
export const initializers = builders<v1.InitializerSpec, "initializer">(v1.InitializerSpecSchema, "initializer");
/** Layers of a network, such as `layers.dense({ units: 10 })`. */
export const layers = builders<v1.LayerSpec, "layer">(v1.LayerSpecSchema, "layer");
