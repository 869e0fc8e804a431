/**
 * How a call of `node:fs` becomes an Effect.
 *
 * A call that was handed to the thread pool cannot be taken back, so every effect here is uninterruptible: who
 * interrupts waits until the kernel has answered.
 *
 * @internal
 */
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import { VfsError, type VfsOperation } from "../VfsError.ts"

/** The errno code of what `node:fs` threw or called back with. */
export const codeOf = (cause: unknown): string =>
  Predicate.hasProperty(cause, "code") && typeof cause.code === "string" ? cause.code : "EUNKNOWN"

export const toVfsError = (operation: VfsOperation, path: string, cause: unknown): VfsError =>
  new VfsError({ operation, path, code: codeOf(cause), cause })

/** The error of a call on a file that was closed: the descriptor's number may belong to another file by now. */
export const closedError = (operation: VfsOperation, path: string): VfsError =>
  toVfsError(operation, path, Object.assign(new Error("the file is closed"), { code: "EBADF" }))

type NodeCallback<A> = (cause: NodeJS.ErrnoException | null, value: A) => void

export const nodeCall = <A>(
  operation: VfsOperation,
  path: string,
  start: (callback: NodeCallback<A>) => void
): Effect.Effect<A, VfsError> =>
  Effect.uninterruptible(
    Effect.callback<A, VfsError>((resume) =>
      start((cause, value) =>
        resume(cause === null ? Effect.succeed(value) : Effect.fail(toVfsError(operation, path, cause)))
      )
    )
  )
