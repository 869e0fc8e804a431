/** Workloads of a native log over a ledger, and what is left of them on a disk that a crash has visited. */
import { assert } from "@effect/vitest"
import type { CommitSeq, PageSize } from "@tidemark/core/Scalars"
import type { MemoryDisk, Trace } from "@tidemark/platform/MemoryDisk"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import * as CheckpointMarkFormat from "../../src/CheckpointMarkFormat.ts"
import type * as NativeLog from "../../src/NativeLog.ts"
import type { CheckpointMode } from "../../src/SqliteWal.ts"
import { Ledger } from "./ledger.ts"
import { commit, openByHand, type OpenedNative, type Options } from "./nativeLog.ts"
import { type Acknowledged, checkVisible, contentsOf, type Recovered, recoveriesBy, settle } from "./parallelRuns.ts"
import { memoryPath } from "./sqliteWal.ts"

/** What the checkpoint mark on a disk says. */
export const markOn = (disk: MemoryDisk): Pick<
  CheckpointMarkFormat.CheckpointMark,
  "databasePages" | "kind" | "through"
> => {
  const bytes = disk.readFile(CheckpointMarkFormat.checkpointMarkPath(memoryPath))
  if (bytes === undefined) throw new Error("there is no checkpoint mark")
  const { databasePages, kind, through } = Result.getOrThrow(CheckpointMarkFormat.decode(bytes))
  return { kind, through, databasePages }
}

const recoveries = recoveriesBy<Options>(openByHand)

/** `recoveriesBy`, of the native log. */
export const recover = (disk: MemoryDisk, ledger: Ledger, label: string, options: Options = {}) =>
  recoveries.recover(disk, ledger, label, options)
export const nothingIsLost = (disk: MemoryDisk, ledger: Ledger, label: string) =>
  recoveries.nothingIsLost(disk, ledger, label, {})

export interface Workload {
  readonly seed: number
  readonly pageSize: PageSize
  readonly rounds: number
  readonly writers: number
  readonly checkpoints: ReadonlyArray<CheckpointMode>
  readonly options?: Partial<NativeLog.NativeLogOptions>
}

/** Writers that commit side by side while checkpoints of the given modes run, one after another. */
export const work = (ledger: Ledger, opened: OpenedNative, { checkpoints, rounds, seed, writers }: Workload) => {
  const writer = Effect.fnUntraced(function*(number: number) {
    for (let round = 0; round < rounds; round++) {
      const databasePages = 2 + (number * 3 + round * 5 + seed) % 7
      yield* commit(ledger, opened, { pages: [2 + (number + round) % 6, 2 + round % 3], databasePages })
    }
  })
  return Effect.all([
    ...Array.from({ length: writers }, (_, number) => writer(number)),
    Effect.forEach(checkpoints, (mode) => Effect.andThen(settle, opened.native.checkpoint(mode)))
  ], { concurrency: "unbounded" })
}

/** Records a workload from the first byte on, the last one included. */
export const record = (
  disk: MemoryDisk,
  workload: Workload,
  use: (ledger: Ledger, opened: OpenedNative) => Effect.Effect<unknown, unknown, Scope.Scope> = (ledger, opened) =>
    work(ledger, opened, workload)
): Effect.Effect<{ readonly ledger: Ledger; readonly trace: Trace<Acknowledged> }> =>
  Effect.gen(function*() {
    const trace = disk.record<Acknowledged>()
    const ledger = new Ledger(workload.pageSize)
    ledger.onAcknowledged = (seq: CommitSeq) => trace.mark({ seq })
    yield* Effect.scoped(Effect.gen(function*() {
      const opened = yield* openByHand(disk, {
        create: { pageSize: workload.pageSize },
        checkpointOnClose: true,
        ...workload.options
      })
      yield* use(ledger, opened)
    }))
    trace.stop()
    return { ledger, trace }
  }).pipe(Effect.orDie)

/** How often something was seen over many recoveries. */
export interface Tally {
  /** Torn batches of markers that look like damage (RC-26). */
  damaged: number
  /** A loss was being accepted: then what goes on behind the damage makes it look like nothing that a power loss leaves. */
  readonly isAccepting?: boolean
}

/**
 * As {@link recover}; where the markers are torn so that it looks like damage, everything is checked as it can be read,
 * with nothing changed, and then once more with the loss accepted, as `tidemark recover` does it.
 */
export const recoverAnyhow = (
  disk: MemoryDisk,
  ledger: Ledger,
  label: string,
  tally?: Tally
): Effect.Effect<Recovered> =>
  Effect.scoped(Effect.gen(function*() {
    const contents = contentsOf(disk)
    const opened = yield* openByHand(disk, { create: { pageSize: ledger.pageSize } })
    const found = checkVisible(opened, ledger, label)
    if (!opened.native.startUp.isReadOnly) return found
    if (tally !== undefined) tally.damaged++
    if (tally?.isAccepting !== true) {
      assert.isTrue(opened.native.startUp.damage?.damage.couldBeTorn, `${label}: damage that no power loss leaves`)
    }
    assert.strictEqual(opened.log.ended()?._tag, "WalPoisoned")
    yield* opened.close
    assert.deepStrictEqual(contentsOf(disk), contents, `${label}: nothing was changed`)
    const kept = yield* recover(disk, ledger, `${label}, accepted`, { acceptLoss: true })
    assert.strictEqual(kept.visible, found.visible, `${label}: the same prefix`)
    return kept
  })).pipe(Effect.catchCause((cause) => Effect.die(new Error(`${label}: ${Cause.pretty(cause)}`))))
