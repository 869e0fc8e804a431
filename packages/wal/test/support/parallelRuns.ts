/** Workloads of a parallel WAL over a ledger, and what is left of them on a disk that a crash has visited. */
import { assert } from "@effect/vitest"
import type { CommitSeq, PageSize } from "@tidemark/core/Scalars"
import { toCommitSeq, toPageNumber } from "@tidemark/core/Scalars"
import { MemoryDisk, type Trace } from "@tidemark/platform/MemoryDisk"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import { certificatesPath, scanCertificates } from "../../src/CertificateFormat.ts"
import type { SequencedLog } from "../../src/CommitLog.ts"
import type * as ParallelWal from "../../src/ParallelWal.ts"
import type { CheckpointMode } from "../../src/SqliteWal.ts"
import { Ledger } from "./ledger.ts"
import { firstDifference, type Version } from "./pages.ts"
import { openByHand, type OpenedParallel, type Options } from "./parallelWal.ts"
import { memoryPath, prepareDisk } from "./sqliteWal.ts"

export const certificates = certificatesPath(memoryPath)

/** Turns enough for everything that does not wait for a clock or for somebody else. */
export const settle = Effect.repeat(Effect.yieldNow, { times: 60 })

/** Cycle after cycle while `use` runs: a ticker without a clock. */
export const cycling = <A, E, R>({ wal }: OpenedParallel, use: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.acquireUseRelease(
    Effect.forkChild(Effect.forever(Effect.andThen(Effect.ignore(wal.advanceAndFlush()), Effect.yieldNow))),
    () => use,
    (ticker) => Fiber.interrupt(ticker)
  )

/** One commit after another, each of two or three pages and flushed at once. */
export const commits = (ledger: Ledger, opened: OpenedParallel, count: number) =>
  cycling(
    opened,
    Effect.forEach(Array.from({ length: count }), (_, n) =>
      ledger.commit(opened, {
        pages: [2 + n % 5],
        databasePages: Math.max(6, ledger.version(ledger.lastSeq).databasePages)
      }), { discard: true })
  )

// -- what is on a disk ------------------------------------------------------------------------------------------------

/** Pages of the database file. */
export const filePages = (disk: MemoryDisk, pageSize: PageSize): ReadonlyArray<Uint8Array> => {
  const bytes = disk.readFile(memoryPath) ?? new Uint8Array(0)
  return Array.from(
    { length: Math.floor(bytes.length / pageSize) },
    (_, n) => bytes.subarray(n * pageSize, (n + 1) * pageSize)
  )
}

/** How the database file, version bytes aside, differs from a version. */
export const fileDifference = (disk: MemoryDisk, ledger: Ledger, seq: bigint): string | undefined => {
  const pages = filePages(disk, ledger.pageSize)
  pages[0]?.fill(2, 18, 20)
  return firstDifference(ledger.version(toCommitSeq(seq)), pages.length, (page) => pages[page - 1])
}

/** The version bytes of the database file. */
export const versionBytes = (disk: MemoryDisk): ReadonlyArray<number> =>
  Array.from(disk.readFile(memoryPath)?.subarray(18, 20) ?? [])

export const segmentsOf = (disk: MemoryDisk): ReadonlyArray<string> =>
  disk.files.filter((path) => path.startsWith(`${memoryPath}-wal-seg-`))

export const certificateHighs = (disk: MemoryDisk): ReadonlyArray<CommitSeq> => {
  const bytes = disk.readFile(certificates)
  return bytes === undefined ? [] : scanCertificates(bytes).certificates.map(({ certificate }) => certificate.high)
}

/** Every file with its bytes, to be compared with what it is later. */
export const contentsOf = (disk: MemoryDisk): ReadonlyMap<string, Uint8Array | undefined> =>
  new Map(disk.files.map((path) => [path, disk.readFile(path)]))

/**
 * Says what is wrong when stock SQLite would open the database file of a disk and find there anything but `version`. It
 * refuses to read what has a version above 2 at byte 19, and takes an empty file for an empty database.
 */
export const sqliteDifference = (disk: MemoryDisk, version: Version, pageSize: PageSize): string | undefined => {
  const [, readVersion] = versionBytes(disk)
  if (readVersion !== undefined && readVersion > 2) return undefined
  const pages = filePages(disk, pageSize)
  // A database that is being made may lack parts of its only page: nothing was ever committed.
  const only = version.databasePages === 1 ? version.pages.get(1) : undefined
  const file = disk.readFile(memoryPath) ?? new Uint8Array(0)
  if (only !== undefined && file.every((byte, at) => byte === 0 || byte === only[at])) return undefined
  pages[0]?.fill(2, 18, 20)
  return firstDifference(version, Math.min(pages.length, version.databasePages), (page) => pages[page - 1])
}

// -- recovering -------------------------------------------------------------------------------------------------------

export interface Recovered {
  /** The commit whose pages are visible. */
  readonly visible: CommitSeq
  /** The last sequence that is used up, by aborted commits too. */
  readonly tip: CommitSeq
}

/** The commit that has written page 1: its stamp is one more (`pages.ts`). */
const writerOf = (page1: Uint8Array): CommitSeq => {
  const stamp = Buffer.from(page1).readUInt32BE(60)
  return toCommitSeq(BigInt(stamp === 0 ? 0 : stamp - 1))
}

/** Reads what is visible, as it stands in the pages themselves, and compares all of it with the ledger. */
export const checkVisible = (
  opened: { readonly log: Pick<SequencedLog<never>, "openReader"> },
  ledger: Ledger,
  label: string
): Recovered => {
  const reader = opened.log.openReader()
  try {
    const visible = writerOf(reader.readSync(toPageNumber(1)))
    const difference = firstDifference(
      ledger.version(visible),
      reader.databasePages,
      (page) => reader.readSync(toPageNumber(page))
    )
    assert.isUndefined(difference, `${label}: the pages of commit ${visible}`)
    assert.isTrue(reader.high >= visible, `${label}: ${reader.high} counts commit ${visible}`)
    return { visible, tip: reader.high }
  } finally {
    reader.release()
  }
}

/** How the processes after a crash look at what it has left, by a log's way of opening a database. */
export const recoveriesBy = <Options>(
  open: (
    disk: MemoryDisk,
    options: Options & { readonly create: { readonly pageSize: PageSize } }
  ) => Effect.Effect<Parameters<typeof checkVisible>[0], unknown, Scope.Scope>
) => {
  /** Opens the disk as the next process, compares with the ledger, and leaves without closing anything in order. */
  const recover = (
    disk: MemoryDisk,
    ledger: Ledger,
    label: string,
    options: Options
  ): Effect.Effect<Recovered> =>
    Effect.scoped(
      Effect.map(
        open(disk, { create: { pageSize: ledger.pageSize }, ...options }),
        (opened) => checkVisible(opened, ledger, label)
      )
    ).pipe(Effect.catchCause((cause) => Effect.die(new Error(`${label}: ${Cause.pretty(cause)}`))))

  /** Whatever a power loss takes, the last commit that was acknowledged is there. */
  const nothingIsLost = (disk: MemoryDisk, ledger: Ledger, label: string, options: Options): Effect.Effect<void> =>
    Effect.gen(function*() {
      for (const choice of ["lost", "kept", 1, 2, 3] as const) {
        const found = yield* recover(disk.afterCrash(choice), ledger, `${label}, ${choice}`, options)
        assert.isTrue(found.visible >= ledger.acknowledged, `${label}, ${choice}: ${found.visible}`)
      }
    })

  return { recover, nothingIsLost }
}

const recoveries = recoveriesBy<Options>(openByHand)

/** {@link recoveriesBy}, of the parallel log. */
export const recover = (disk: MemoryDisk, ledger: Ledger, label: string, options: Options = {}) =>
  recoveries.recover(disk, ledger, label, options)
export const nothingIsLost = (disk: MemoryDisk, ledger: Ledger, label: string) =>
  recoveries.nothingIsLost(disk, ledger, label, {})

/** The ledger of a process that begins with what was recovered. */
export const continued = (ledger: Ledger, { tip, visible }: Recovered): Ledger => {
  const next = new Ledger(ledger.pageSize, tip, ledger.version(visible))
  // What is visible may have been written before sequences that were aborted.
  next.versions.set(visible, ledger.version(visible))
  next.acknowledged = visible
  return next
}

// -- workloads --------------------------------------------------------------------------------------------------------

/** What a test says about a moment of a recording. */
export interface Acknowledged {
  readonly seq: CommitSeq
}

export const acknowledgedIn = (marks: ReadonlyArray<Acknowledged>): CommitSeq => marks.at(-1)?.seq ?? toCommitSeq(0n)

export interface Workload {
  readonly seed: number
  readonly pageSize: PageSize
  readonly rounds: number
  readonly writers: number
  readonly checkpoints: ReadonlyArray<CheckpointMode>
  readonly options?: Partial<ParallelWal.ParallelWalOptions>
}

/** Writers that commit side by side while checkpoints of the given modes run, one after another. */
export const work = (ledger: Ledger, opened: OpenedParallel, { checkpoints, rounds, seed, writers }: Workload) => {
  const writer = Effect.fnUntraced(function*(number: number) {
    for (let round = 0; round < rounds; round++) {
      const databasePages = 2 + (number * 3 + round * 5 + seed) % 7
      yield* ledger.commit(opened, { pages: [2 + (number + round) % 6, 2 + round % 3], databasePages })
    }
  })
  return cycling(
    opened,
    Effect.all([
      ...Array.from({ length: writers }, (_, number) => writer(number)),
      Effect.forEach(checkpoints, (mode) => Effect.andThen(settle, opened.wal.checkpoint(mode)))
    ], { concurrency: "unbounded" })
  )
}

/** Records a workload from the first byte on, the last one included. */
export const record = (
  disk: MemoryDisk,
  workload: Workload,
  use: (ledger: Ledger, opened: OpenedParallel) => Effect.Effect<unknown, unknown, Scope.Scope> = (ledger, opened) =>
    work(ledger, opened, workload)
): Effect.Effect<{ readonly ledger: Ledger; readonly trace: Trace<Acknowledged> }> =>
  Effect.gen(function*() {
    const trace = disk.record<Acknowledged>()
    const ledger = new Ledger(workload.pageSize)
    ledger.onAcknowledged = (seq) => trace.mark({ seq })
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

/** The ends of the intervals that a recording has certified, with 0, where nothing is. */
export const intervalEnds = (trace: Trace<Acknowledged>): ReadonlySet<CommitSeq> => {
  const ends = new Set([toCommitSeq(0n)])
  for (const [index, step] of trace.steps.entries()) {
    if (step.kind !== "write" || step.path !== certificates) continue
    for (const high of certificateHighs(trace.diskAfter(index + 1))) ends.add(high)
  }
  return ends
}

/** A disk with the files of another one, durably, but for these: other bytes, or none. */
export const edited = (
  disk: MemoryDisk,
  changes: Readonly<Record<string, Uint8Array | undefined>> = {}
): MemoryDisk => {
  const copy = prepareDisk(MemoryDisk.make())
  for (const path of disk.files) {
    const bytes = disk.readFile(path)
    if (!(path in changes) && bytes !== undefined) copy.writeFile(path, bytes)
  }
  for (const [path, bytes] of Object.entries(changes)) if (bytes !== undefined) copy.writeFile(path, bytes)
  return copy
}

/** A log of so many segments with a commit each, none of it in the database file: `of` says what is on the disk. */
export const logOf = (
  count: number,
  pageSize: PageSize,
  options: Options = {},
  disk = prepareDisk(MemoryDisk.make())
): Effect.Effect<{ readonly disk: MemoryDisk; readonly ledger: Ledger }> =>
  Effect.scoped(Effect.gen(function*() {
    const opened = yield* openByHand(disk, { create: { pageSize }, ...options })
    const tip = opened.log.published().commitSeq
    const ledger = new Ledger(pageSize, tip)
    yield* commits(ledger, opened, count)
    return { disk, ledger }
  })).pipe(Effect.orDie)
