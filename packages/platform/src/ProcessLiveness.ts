/**
 * Who this process is, and whether another one still lives.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as NodeFs from "node:fs"
import { codeOf } from "./internal/nodeCalls.ts"
import { isDeadState, parseProcStat, type ProcStat } from "./internal/procStat.ts"

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
}>()("@tidemark/platform/ProcessLiveness") {
  /**
   * The processes of this machine. On Linux by `/proc`; elsewhere only pids can be told apart, and every birth is 0.
   */
  static readonly layer: Layer.Layer<ProcessLiveness> = Layer.sync(
    ProcessLiveness,
    () =>
      ProcessLiveness.of({
        self: { pid: process.pid, birth: readStat(process.pid)?.birth ?? 0n },
        isAlive: (process) => Effect.sync(() => isAlive(process))
      })
  )

  /**
   * Processes that a test makes up: `isAlive` is asked each time, and by default only `self` lives.
   */
  static readonly layerTest = (options: {
    readonly self?: ProcessIdentity | undefined
    readonly isAlive?: ((process: ProcessIdentity) => boolean) | undefined
  } = {}): Layer.Layer<ProcessLiveness> => {
    const self = options.self ?? { pid: 1, birth: 1n }
    const answer = options.isAlive ?? (({ birth, pid }) => pid === self.pid && birth === self.birth)
    return Layer.succeed(
      ProcessLiveness,
      ProcessLiveness.of({
        self,
        isAlive: (process) => Effect.sync(() => process.pid !== 0 && answer(process))
      })
    )
  }
}

/** `undefined` where there is no `/proc`, no such process, or no permission to see it. */
const readStat = (pid: number): ProcStat | undefined => {
  try {
    return parseProcStat(NodeFs.readFileSync(`/proc/${pid}/stat`, "latin1"))
  } catch {
    return undefined
  }
}

const isAlive = ({ birth, pid }: ProcessIdentity): boolean => {
  // Zero and negative pids would ask about whole groups.
  if (pid <= 0) return false
  const stat = readStat(pid)
  if (stat !== undefined) return !isDeadState(stat.state) && (birth === 0n || birth === stat.birth)
  // A process that `/proc` does not show may be hidden from this user: only the kernel's "no such process" counts.
  try {
    process.kill(pid, 0)
    return true
  } catch (cause) {
    return codeOf(cause) !== "ESRCH"
  }
}
