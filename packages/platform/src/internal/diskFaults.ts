/**
 * Which operation fails next, and which one waits: the plans that tests have laid on a disk.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import type { DiskMatch, Fault, FaultHandle, FaultPlan, Hold, HoldOptions } from "../MemoryDisk.ts"
import type { VfsOperation } from "../VfsError.ts"
import { normalizePath } from "./diskPaths.ts"
import type { MemoryProcess } from "./memoryProcess.ts"

/** An operation that is about to run. `position` and `length` are 0 where they mean nothing. */
interface Attempt {
  readonly operation: VfsOperation
  readonly path: string
  readonly position: number
  readonly length: number
}

/** @internal */
export class DiskFaults {
  readonly #plans = new Set<{ readonly plan: FaultPlan; seen: number; hits: number }>()

  inject(plan: FaultPlan): FaultHandle {
    const entry = { plan, seen: 0, hits: 0 }
    this.#plans.add(entry)
    return {
      get hits() {
        return entry.hits
      },
      remove: () => {
        this.#plans.delete(entry)
      }
    }
  }

  /** The fault of the first plan that strikes this operation. Every plan that matches counts it. */
  next(attempt: Attempt): Fault | undefined {
    let fault: Fault | undefined
    for (const entry of this.#plans) {
      if (!matches(entry.plan, attempt) || !covers(entry.plan.fault, attempt)) continue
      const seen = entry.seen++
      const skip = entry.plan.skip ?? 0
      if (fault !== undefined || seen < skip || seen >= skip + (entry.plan.times ?? 1)) continue
      entry.hits++
      fault = entry.plan.fault
    }
    return fault
  }
}

/** @internal */
export class DiskHolds {
  readonly #waiting = new Set<PlacedHold>()
  readonly #reached = new Map<PlacedHold, MemoryProcess>()

  get isEmpty(): boolean {
    return this.#waiting.size === 0
  }

  place(options: HoldOptions): Hold {
    const hold: PlacedHold = {
      options,
      seen: 0,
      reached: Deferred.makeUnsafe(),
      gate: Deferred.makeUnsafe()
    }
    this.#waiting.add(hold)
    return {
      reached: Deferred.await(hold.reached),
      release: Effect.sync(() => {
        this.#open(hold)
      })
    }
  }

  /** Waits when a hold was placed for this moment of this operation. */
  pass(process: MemoryProcess, when: "before" | "after", operation: VfsOperation, path: string): Effect.Effect<void> {
    for (const hold of this.#waiting) {
      if ((hold.options.when ?? "before") !== when || !matches(hold.options, { operation, path })) continue
      if (hold.seen++ < (hold.options.skip ?? 0)) continue
      this.#waiting.delete(hold)
      this.#reached.set(hold, process)
      Deferred.doneUnsafe(hold.reached, Effect.void)
      return Deferred.await(hold.gate)
    }
    return Effect.void
  }

  /** The operations of a dead process wait for nothing. Call it when everything else about its death is done. */
  releaseAll(process: MemoryProcess): void {
    for (const [hold, owner] of this.#reached) if (owner === process) this.#open(hold)
  }

  #open(hold: PlacedHold): void {
    this.#waiting.delete(hold)
    this.#reached.delete(hold)
    Deferred.doneUnsafe(hold.gate, Effect.void)
  }
}

interface PlacedHold {
  readonly options: HoldOptions
  seen: number
  readonly reached: Deferred.Deferred<void>
  readonly gate: Deferred.Deferred<void>
}

const matches = (match: DiskMatch, attempt: { readonly operation: VfsOperation; readonly path: string }): boolean => {
  const { operation, path } = match
  if (operation !== "any" && operation !== attempt.operation) {
    if (typeof operation === "string" || !operation.includes(attempt.operation)) return false
  }
  if (path === undefined) return true
  if (typeof path === "string") return normalizePath(path) === attempt.path
  // Not `test`, which remembers a position between calls when the expression is global.
  return path instanceof RegExp ? attempt.path.search(path) !== -1 : path(attempt.path)
}

/** A flipped bit strikes only the reads that see it. */
const covers = (fault: Fault, attempt: Attempt): boolean =>
  fault.kind !== "flippedBit" ||
  (fault.position >= attempt.position && fault.position < attempt.position + attempt.length)
