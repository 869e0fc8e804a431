/**
 * Native mode: every commit is a file with its pages and a marker that names it, and the markers stay as the history of
 * the database: what was committed after what, and when.
 *
 * Run it with `node examples/history.ts [DATABASE]`, more than once: each run goes on where the last one ended, and stock
 * SQLite opens the database in between.
 */
import * as NativeCoordinator from "@tidemark/coordinator/NativeCoordinator"
import * as Pager from "@tidemark/coordinator/Pager"
import { type CommitSeq, toCommitSeq, toPageNumber } from "@tidemark/core/Scalars"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { isGenesis } from "@tidemark/wal/MarkerFormat"
import * as NativeLog from "@tidemark/wal/NativeLog"
import { Effect, Layer, Stream } from "effect"

const balance = toPageNumber(2)

/** Adds one to the balance in page 2, from as many fibers as it is told: the pages go into capsules, 88 bytes into the log. */
export const deposit = Effect.fnUntraced(function*(fibers: number) {
  const pager = yield* Pager.Pager
  const one = pager.withTransaction(Effect.fnUntraced(function*(tx) {
    const page = yield* tx.read(balance)
    const view = new DataView(page.buffer)
    view.setUint32(0, view.getUint32(0) + 1)
    yield* tx.write(balance, page)
  }))
  yield* Effect.all(Array.from({ length: fibers }, () => one), { concurrency: "unbounded", discard: true })
  const page = yield* pager.withTransaction((tx) => tx.read(balance))
  return new DataView(page.buffer).getUint32(0)
})

/** Every commit there ever was under the native log, oldest first. The records that only begin a stream are none. */
export const history = Effect.gen(function*() {
  const { commits, markers } = yield* NativeLog.NativeLog
  return yield* markers.range(toCommitSeq(0n), commits.published().commitSeq).pipe(
    Stream.filter((marker) => !isGenesis(marker)),
    Stream.map(({ seq, timeUnixNanos }) => ({ seq, timeUnixNanos })),
    Stream.runCollect
  )
})

/** The last commit at or before a time. It looks at a few markers, however many there are. */
export const committedBy = (timeUnixNanos: bigint) =>
  Effect.flatMap(NativeLog.NativeLog, ({ markers }) => markers.sequenceAt(timeUnixNanos))

/** The whole engine over a platform that is still to be provided: `NodeVfs.layer`, or `MemoryVfs.layer` in tests. */
export const engine = (database: string) =>
  Pager.layerNative.pipe(
    Layer.provideMerge(NativeCoordinator.layer),
    Layer.provideMerge(NativeLog.layer({ database, create: {} }))
  )

const toLine = ({ seq, timeUnixNanos }: { readonly seq: CommitSeq; readonly timeUnixNanos: bigint }) =>
  `commit ${seq} at ${new Date(Number(timeUnixNanos / 1_000_000n)).toISOString()}`

if (import.meta.main) {
  const layer = engine(process.argv[2] ?? "history.db").pipe(Layer.provide(NodeVfs.layer))
  const program = Effect.all([deposit(8), history])
  const [total, commits] = await Effect.runPromise(program.pipe(Effect.provide(layer)))
  const newest = commits.slice(-3).map(toLine).join("\n")
  process.stdout.write(`the balance is ${total} after ${commits.length} commits; the newest:\n${newest}\n`)
}
