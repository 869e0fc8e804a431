/**
 * Who this process is, and whether another one still lives.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"

/**
 * A process, told apart from a later one that was given the same pid by the time of its birth.
 *
 * @category models
 * @since 0.1.0
 */
export interface ProcessIdentity {
  /** 0 means nobody. */
  readonly pid: number
  /** Start time in clock ticks since boot on Linux; 0 when the platform cannot tell. */
  readonly birth: bigint
}

/**
 * Identity and liveness of processes. A kernel lock is the better proof of life; this is for messages and for holders
 * of slots in shared memory.
 *
 * @category services
 * @since 0.1.0
 */
export class ProcessLiveness extends Context.Service<ProcessLiveness, {
  readonly self: ProcessIdentity
  /** Whether that very process lives: a zombie is dead, a process of another user lives, pid 0 is nobody. */
  readonly isAlive: (process: ProcessIdentity) => Effect.Effect<boolean>
}>()("@tidemark/platform/ProcessLiveness") {}
