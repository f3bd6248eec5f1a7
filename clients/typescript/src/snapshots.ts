/** Sessions as safetensors files. */

import { randomUUID } from "node:crypto";
import { chunked } from "./chunks.js";
import type { Client } from "./client.js";
import type { CallOptions } from "./deadline.js";
import { Code, OptserveError } from "./errors.js";
import type { SessionHandle } from "./session.js";
import * as v1 from "./v1.js";
import { toBytes } from "./values.js";

/** The default time for an export, whose length only the server knows. */
const EXPORT_MS = 86_400_000;

/**
 * Reads a session, or one of its snapshots, as a file that `importSession` takes.
 *
 * @param name - `sessions/{id}` or `sessions/{id}/snapshots/{step}`.
 */
export async function exportSession(client: Client, name: string, options: CallOptions = {}): Promise<Uint8Array> {
  const attempt = async () => {
    let file: Uint8Array | undefined;
    let received = 0;
    for await (const { header, chunk } of client.sessions.exportSnapshot({ name }, options)) {
      if (header) file = new Uint8Array(header.byteCount);
      file?.set(chunk?.data ?? [], received);
      received += chunk?.data.length ?? 0;
    }
    if (file?.length !== received) throw new OptserveError("the file ended before it was complete", Code.UNAVAILABLE);
    return file;
  };
  return client.connection.retry(attempt, { ...options, timeoutMs: options.timeoutMs ?? EXPORT_MS });
}

/** Creates a session from what `exportSession` has read, from this or another server. */
export async function importSession(
  client: Client,
  file: Uint8Array,
  options: CallOptions & {
    /** Last part of the session's name; chosen by the server when left out. */
    sessionId?: string | undefined;
  } = {},
): Promise<SessionHandle> {
  const header = { requestId: randomUUID(), sessionId: options.sessionId, byteCount: file.length };
  const head = toBytes(v1.ImportSnapshotRequestSchema, { header });
  const parts = [{ data: file, dtype: v1.DataType.UNSPECIFIED }];
  const messages = () => chunked(head, 2, parts);
  const method = v1.SessionService.method.importSnapshot;
  const { session } = await client.connection.upload(method, messages, options, file.length);
  return client.session(session?.name ?? "");
}
