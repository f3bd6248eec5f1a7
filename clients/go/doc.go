// Package optserve takes optimizer steps on an optserve server: the server holds parameters and
// optimizer state, the client sends gradients and gets parameters back, as flat slices by name.
//
// Specifications are messages of the package gen/optserve/v1, made with its builders; the README has
// an example.
//
// # Exactly once
//
// Every step carries the name of its worker and a number, every other change a request id. A call
// that meets an unreachable server is repeated until the deadline of its context, and is applied
// once. If that fails too, [Error.Applied] says whether the change may have been applied; making
// the same call again, with the same gradients, settles it.
//
// # Deadlines
//
// A context bounds a call with all its attempts. Without a deadline, a call has a minute, and a
// second more for each 10 MB; see [WithTimeout].
package optserve
