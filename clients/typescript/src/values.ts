/** Messages of the contract as plain objects, with numbers in place of 64-bit integers. */

import type * as pb from "@bufbuild/protobuf";
import { create, ScalarType, toBinary } from "@bufbuild/protobuf";
import { type Timestamp, TimestampSchema, timestampDate } from "@bufbuild/protobuf/wkt";

type FieldOf<T> = Exclude<keyof T, "$typeName" | "$unknown">;

/**
 * What may be given for a message: any of its fields, with numbers or bigints for 64-bit integers. A
 * message of the generated code may be given as well.
 */
export type Init<T> = T extends bigint
  ? bigint | number
  : T extends Uint8Array
    ? T
    : T extends readonly (infer E)[]
      ? readonly Init<E>[]
      : T extends pb.Message
        ? { [K in keyof T as K extends FieldOf<T> ? K : never]?: Init<T[K]> | undefined }
        : T extends { case: infer C extends string; value: infer V }
          ? { case: C; value: Init<V> }
          : T;

/** A message as it is returned: all fields, with numbers for 64-bit integers, and Dates. */
export type Value<T> = T extends bigint
  ? number
  : T extends Uint8Array
    ? T
    : T extends readonly (infer E)[]
      ? Value<E>[]
      : T extends Timestamp
        ? Date
        : T extends pb.Message
          ? { [K in keyof T as K extends FieldOf<T> ? K : never]: Value<T[K]> }
          : T extends { case: infer C extends string; value: infer V }
            ? { case: C; value: Value<V> }
            : T;

type Fields = Record<string, unknown>;

/** Makes a message from a plain object. */
export function toMessage<D extends pb.DescMessage>(desc: D, init: Init<pb.MessageShape<D>>): pb.MessageShape<D> {
  const fields: Fields = {};
  for (const member of desc.members) {
    const given = (init as Fields)[member.localName];
    if (given === undefined) continue;
    if (member.kind !== "oneof") {
      fields[member.localName] = fieldOf(member, given);
      continue;
    }
    const { case: name, value } = given as { case?: string; value?: unknown };
    const field = member.fields.find((each) => each.localName === name);
    if (field !== undefined) fields[member.localName] = { case: name, value: fieldOf(field, value) };
  }
  return create(desc, fields as never);
}

/** The encoded message of a plain object. */
export function toBytes<D extends pb.DescMessage>(desc: D, init: Init<pb.MessageShape<D>>): Uint8Array {
  return toBinary(desc, toMessage(desc, init));
}

function fieldOf(field: pb.DescField, given: unknown): unknown {
  if (field.fieldKind === "list") return Array.from(given as Iterable<unknown>, (each) => itemOf(field, each));
  return itemOf(field, given);
}

function itemOf(field: pb.DescField, given: unknown): unknown {
  if (field.message !== undefined) return toMessage(field.message, given as Init<pb.Message>);
  return LONG_TYPES.has(field.scalar) ? BigInt(given as number | bigint) : given;
}

const LONG_TYPES = new Set<ScalarType | undefined>([ScalarType.INT64, ScalarType.UINT64]);

/** The plain object of a message. */
export function toValue<T>(given: T): Value<T> {
  return plainOf(given) as Value<T>;
}

function plainOf(given: unknown): unknown {
  if (typeof given === "bigint") return Number(given);
  if (typeof given !== "object" || given === null || given instanceof Uint8Array) return given;
  if (Array.isArray(given)) return given.map(plainOf);
  if ((given as Partial<pb.Message>).$typeName === TimestampSchema.typeName) return timestampDate(given as Timestamp);
  const value: Fields = {};
  for (const key in given) {
    if (key !== "$typeName" && key !== "$unknown") value[key] = plainOf((given as Fields)[key]);
  }
  return value;
}
