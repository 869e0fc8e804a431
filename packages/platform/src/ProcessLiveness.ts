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
 * What `/proc/PID/stat` of Linux says about a process.
 *
 * @category models
 * @since 0.1.0
 */
export interface ProcStat {
  /** One letter; `Z` and `X` are dead processes that nobody has waited for yet. */
  readonly state: string
  /** Clock ticks between boot and the start of the process. */
  readonly birth: bigint
}

/**
 * Reads the line of `/proc/PID/stat`: pid, name in parentheses, state (field 3), ..., start time (field 22). The name is
 * whatever the process likes, parentheses and blanks included, so the fields are counted from the last closing one.
 * `undefined` when the line is not of that form.
 *
 * @category decoding
 * @since 0.1.0
 */
export const parseProcStat = (line: string): ProcStat | undefined => {
  const [state, ...rest] = line.slice(line.lastIndexOf(")") + 1).trim().split(" ")
  const birth = rest[22 - 4]
  return state !== undefined && /^[A-Za-z]$/.test(state) && birth !== undefined && /^\d+$/.test(birth)
    ? { state, birth: BigInt(birth) }
    : undefined
}

/**
 * The two questions about a pid that the system answers.
 *
 * @category models
 * @since 0.1.0
 */
export interface ProcessQuestions {
  /** `undefined` where there is no `/proc`, no such process, or no permission to see it. */
  readonly stat: (pid: number) => ProcStat | undefined
  /** The errno code of sending it signal 0, `undefined` when that works. */
  readonly signalCode: (pid: number) => string | undefined
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
   * The processes of a machine that answers these questions.
   */
  static readonly layerQuestions = (questions: ProcessQuestions): Layer.Layer<ProcessLiveness> =>
    Layer.sync(ProcessLiveness, () =>
      ProcessLiveness.of({
        self: { pid: process.pid, birth: questions.stat(process.pid)?.birth ?? 0n },
        isAlive: (process) => Effect.sync(() => isProcessAlive(process, questions))
      }))

  /**
   * The processes of this machine. On Linux by `/proc`; elsewhere only pids can be told apart, and every birth is 0.
   */
  static readonly layer: Layer.Layer<ProcessLiveness> = Layer.suspend(() => this.layerQuestions(questions))

  /**
   * Processes that a test makes up: `isAlive` is asked each time, and by default only `self` lives.
   */
  static readonly layerTest = (options: {
    readonly self?: ProcessIdentity | undefined
    readonly isAlive?: ((process: ProcessIdentity) => boolean) | undefined
  } = {}): Layer.Layer<ProcessLiveness> => {
    const self = options.self ?? { pid: 1, birth: 1n }
    const isAlive = options.isAlive ?? (({ birth, pid }) => pid === self.pid && birth === self.birth)
    return Layer.succeed(
      ProcessLiveness,
      ProcessLiveness.of({
        self,
        isAlive: (process) => Effect.sync(() => process.pid !== 0 && isAlive(process))
      })
    )
  }
}

const isProcessAlive = ({ birth, pid }: ProcessIdentity, questions: ProcessQuestions): boolean => {
  // Zero and negative pids would ask about whole groups.
  if (pid <= 0) return false
  const stat = questions.stat(pid)
  if (stat !== undefined) {
    const isDead = stat.state === "Z" || stat.state === "X" || stat.state === "x"
    return !isDead && (birth === 0n || birth === stat.birth)
  }
  // `/proc` may hide a process from this user. Only the kernel's "no such process" counts: EPERM is somebody's.
  return questions.signalCode(pid) !== "ESRCH"
}

const questions: ProcessQuestions = {
  stat: (pid) => {
    try {
      return parseProcStat(NodeFs.readFileSync(`/proc/${pid}/stat`, "latin1"))
    } catch {
      return undefined
    }
  },
  signalCode: (pid) => {
    try {
      process.kill(pid, 0)
      return undefined
    } catch (cause) {
      return codeOf(cause)
    }
  }
}
