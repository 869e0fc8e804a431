/**
 * Measures how many durable commits this machine makes, for numbers of writers, with the floor of its disk in between.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { commitSyncs } from "../database.ts"
import type { OperationFailed } from "../ExitCode.ts"
import { makeWorkDirectory } from "../WorkDirectory.ts"
import { Latencies, type Measurement, runClosedLoop } from "./ClosedLoop.ts"
import { openFloor } from "./floor.ts"

/**
 * @category models
 * @since 0.1.0
 */
export interface BenchOptions {
  /** Where the files go; `undefined` is the directory for temporary files. */
  readonly directory: string | undefined
  readonly benches: ReadonlyArray<Bench>
  readonly writers: ReadonlyArray<number>
  /** Of each row. */
  readonly seconds: number
}

/**
 * One thing that commits: opens what it needs, and lets `measure` call its commits.
 *
 * @category models
 * @since 0.1.0
 */
export interface Bench {
  readonly name: string
  readonly run: (
    directory: string,
    writers: number,
    measure: <E, R>(commit: (writer: number) => Effect.Effect<unknown, E, R>) => Effect.Effect<Row, E, R>
  ) => Effect.Effect<Row, Error>
}

/**
 * @category models
 * @since 0.1.0
 */
export interface Row extends Measurement {
  readonly name: string
  readonly writers: number
  readonly syncs: number
}

/**
 * @category models
 * @since 0.1.0
 */
export interface BenchResult {
  readonly floor: Measurement
  readonly rows: ReadonlyArray<Row>
  /** The files lie in memory, where a sync costs nothing. */
  readonly isInMemory: boolean
}

/** The code becomes fast, and the file gets its blocks, before anything counts. */
const warmUpShare = 0.25
const maxWarmUpSeconds = 0.5

/** The floor is measured before every row, because a disk drifts. */
const floorShare = 0.25
const maxFloorSeconds = 1

/**
 * Runs the benches one after another. `onRow` is told what begins.
 *
 * @category running
 * @since 0.1.0
 */
export const runBench = Effect.fnUntraced(function*(
  { benches, directory, seconds, writers }: BenchOptions,
  onRow: (name: string, writers: number) => void
): Effect.fn.Return<BenchResult, OperationFailed | Error, Scope.Scope> {
  const files = yield* makeWorkDirectory(directory, "bench")
  const measureFloor = yield* openFloor(files.path)
  const floor = new Latencies()
  const rows: Array<Row> = []
  for (const { name, run } of benches) {
    for (const count of writers) {
      onRow(name, count)
      yield* measureFloor(new Latencies(), Math.min(seconds * warmUpShare, maxWarmUpSeconds))
      yield* measureFloor(floor, Math.min(seconds * floorShare, maxFloorSeconds))
      rows.push(
        yield* makeWorkDirectory(files.path, name).pipe(
          Effect.flatMap(({ path }) => run(path, count, (commit) => measureRow(name, count, seconds, commit))),
          // Each row leaves its room on the disk to the next one.
          Effect.scoped
        )
      )
    }
  }
  return { floor: floor.measurement(), rows, isInMemory: files.isInMemory }
})

const measureRow = Effect.fnUntraced(function*<E, R>(
  name: string,
  writers: number,
  seconds: number,
  commit: (writer: number) => Effect.Effect<unknown, E, R>
): Effect.fn.Return<Row, E, R> {
  yield* runClosedLoop(
    new Latencies(),
    { writers, seconds: Math.min(seconds * warmUpShare, maxWarmUpSeconds) },
    commit
  )
  const syncsBefore = yield* commitSyncs
  const latencies = new Latencies()
  yield* runClosedLoop(latencies, { writers, seconds }, commit)
  const syncs = (yield* commitSyncs) - syncsBefore
  return { name, writers, ...latencies.measurement(), syncs }
})
