/**
 * The one transaction of all processes that commits alone: it holds the serialized writer of the shared-memory header
 * (SHM-08, SHM-09).
 *
 * @since 0.1.0
 */
import type { TxnId } from "@tidemark/core/Scalars"
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type { Busy } from "./CoordinatorErrors.ts"

/**
 * Who is the serialized writer.
 *
 * @category models
 * @since 0.1.0
 */
export interface SerializedHolder {
  readonly id: TxnId
  /** 0 when it has not said so yet. */
  readonly pid: number
  /** Grows with each acquisition, modulo 2^32: who has acquired later has a larger one. */
  readonly generation: number
  readonly birth: bigint
  /** 0 when no lease is set. */
  readonly leaseExpiryUnixSeconds: bigint
}

/**
 * The serialized writer of a header.
 *
 * **Details**
 *
 * A lease decides alone where one is set: when its second has come, the writer can be cleared, whether its process lives
 * or not. Without one it is cleared when its process is dead. A writer whose lease has run out may still be running:
 * it has to look at `holder` (id and generation) in the step that makes its commit count.
 *
 * **Gotchas**
 *
 * A thread that ends without releasing leaves the writer with its process, which lives: set a lease where threads may
 * be terminated. Whether a process lives is asked on this machine and in this pid namespace.
 *
 * @category models
 * @since 0.1.0
 */
export interface SerializedWriter {
  /**
   * Becomes the serialized writer, or answers `Busy` and who is. One that is stale is cleared first. What is acquired is
   * released by nobody but the caller: acquire uninterruptibly, as `Effect.acquireRelease` does.
   */
  readonly acquire: (
    id: TxnId,
    options?: { readonly lease?: Duration.Input | undefined }
  ) => Effect.Effect<void, Busy>
  /**
   * Stops being it. `false` when this transaction is not it: released already, cleared, another process's.
   */
  readonly release: (id: TxnId) => boolean
  /** Who is it at this moment. */
  readonly holder: () => SerializedHolder | undefined
  /**
   * Clears a stale one: `"none"` there is no writer, `"alive"` there is one and it stays, `"cleared"`. `Busy`: while it
   * was being cleared another transaction became the writer.
   */
  readonly clearStale: Effect.Effect<"none" | "alive" | "cleared", Busy>
}
