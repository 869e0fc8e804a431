import { assert, describe, it } from "@effect/vitest"
import * as SharedHeaderService from "@tidemark/coordinator/SharedHeader"
import * as SharedHeader from "@tidemark/coordinator/SharedHeaderFormat"
import * as TransactionSlot from "@tidemark/coordinator/TransactionSlotFormat"
import { CommitSeq, PageSize, SchemaEpoch } from "@tidemark/core/Scalars"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { SharedMemory } from "@tidemark/platform/SharedMemory"
import { Vfs, type VfsFile } from "@tidemark/platform/Vfs"
import { Effect, Fiber, Layer, Logger } from "effect"
import { writeFileSync } from "node:fs"
import type { Inspection } from "../src/inspection/Inspection.ts"
import { inspectSharedHeader } from "../src/inspection/sharedHeaderInspection.ts"
import {
  field,
  flipped,
  liveSlot,
  offsetOfSlot,
  onlyProblem,
  reportOn,
  sharedHeaderOf,
  written
} from "./support/inspected.ts"
import { documentOf, objectsIn, temporaryDirectory, unchanged } from "./support/program.ts"

const publishedIn = ({ summary }: Pick<Inspection, "summary">): string => {
  const published = field(summary, "published")
  assert(typeof published === "string", "whether it is published is said in words")
  return published
}

describe("inspect of a shared-memory header", () => {
  it.live("SHM-01, SHM-11 shows what is in it, and lists a range of its slots with their fields", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const path = SharedHeader.sharedHeaderPath(`${directory}/a.db`)
      writeFileSync(path, sharedHeaderOf({ writerTxnId: 300n, writerPid: 4321, writerGeneration: 9 }))
      const ended = yield* unchanged(directory, "inspect", path, "--from", "0", "--to", "1", "--json")
      assert.strictEqual(ended.code, 0, ended.stderr)
      const document = documentOf(ended)
      assert.deepInclude(document, { kind: "shared-memory-header", path, bytes: 65536, valid: true, problems: [] })
      assert.deepStrictEqual(document["header"], {
        pageSize: 4096,
        transactionSlots: 3,
        nextTxnId: "301",
        snapshotSequence: "8",
        commitSequence: "21",
        schemaEpoch: "0",
        ecsEpoch: "0",
        gcHorizon: "0",
        serializedWriterTxnId: "300",
        serializedWriterPid: 4321,
        serializedWriterGeneration: 9,
        serializedWriterPidBirth: "0",
        serializedWriterLeaseExpiryUnixSeconds: "0",
        lockTableOffset: 216,
        witnessOffset: 408,
        transactionSlotOffset: 792,
        committedReadersOffset: 1176,
        committedReadersBytes: 1,
        nextCommitSequence: "22",
        snapshotPublisherPid: 1234,
        snapshotPublisherGeneration: 2,
        snapshotPublisherIsInitializing: false,
        snapshotPublisherPidBirth: "55"
      })
      assert.deepStrictEqual(document["summary"], {
        published: "as a whole",
        publisher: "process 1234",
        serializedWriter: "transaction 300 of process 4321",
        serializedWriterLeaseExpires: null,
        nextTransactionId: "301",
        regions: "whole",
        bytesToBeMapped: 65536,
        freeSlots: 2,
        liveSlots: 1,
        claimingSlots: 0,
        cleaningSlots: 0,
        damagedSlots: 0,
        lowestBeginSequence: "19"
      })
      const [free, live, ...others] = objectsIn(document, "records")
      assert.lengthOf(others, 0)
      assert.deepInclude(free, { index: 0, offset: offsetOfSlot(0), valid: true, tag: "free", txnId: null })
      assert.deepStrictEqual(live, {
        index: 1,
        offset: offsetOfSlot(1),
        valid: true,
        tag: "live",
        txnId: "300",
        holder: "300",
        txnEpoch: 6,
        pid: 4321,
        pidBirth: "99",
        leaseExpiryUnixSeconds: "1700000100",
        beginSequence: "19",
        commitSequence: "0",
        snapshotHigh: "20",
        state: "active",
        mode: "concurrent",
        witnessEpoch: 0,
        flags: { hasInRw: true, hasOutRw: false, isMarkedForAbort: true },
        markedForAbort: TransactionSlot.abortMarkOf(300n),
        writeSetPages: 3,
        claimingTimeUnixSeconds: "1700000000",
        cleanupTxnId: "300"
      })
      // A page size that is none: exit code 1, and every key of a document.
      const damaged = sharedHeaderOf()
      damaged[12] = 1
      writeFileSync(path, damaged)
      const refused = yield* unchanged(directory, "inspect", path, "--records", "--json")
      assert.strictEqual(refused.code, 1, refused.stderr)
      assert.deepInclude(documentOf(refused), { valid: false, header: null, summary: {}, records: [] })
      assert.deepInclude(objectsIn(documentOf(refused), "problems")[0], { offset: 12, severity: "corrupt" })
    }))

  it.effect("SHM-02 says at which offset it is not one, also of half a one and of another version", () =>
    Effect.gen(function*() {
      const whole = sharedHeaderOf()
      const cases: ReadonlyArray<readonly [bytes: Uint8Array, offset: number, what: RegExp]> = [
        [whole.subarray(0, 100), 0, /^length is 100 bytes, expected at least 216/],
        [written(whole, 8, Uint8Array.of(2)), 8, /^version is 2, expected 1$/],
        [written(whole, 12, Uint8Array.of(1, 0)), 12, /^page size is 1,/],
        [flipped(whole, 150), 144, /^XXH3-64 is /],
        [flipped(whole, 180), 176, /^padding is /]
      ]
      for (const [bytes, offset, what] of cases) {
        const report = yield* reportOn(bytes)
        assert.deepInclude(report, { kind: "shared-memory-header", header: null, rows: [] })
        assert.deepInclude(onlyProblem(report), { offset, severity: "corrupt" })
        assert.match(onlyProblem(report).what, what)
      }
      for (const pageSize of [PageSize.make(512), PageSize.make(65536)]) {
        const report = yield* reportOn(sharedHeaderOf({ pageSize }))
        assert.deepStrictEqual([field(report.header, "pageSize"), report.problems], [pageSize, []])
      }
    }))

  it.effect("SHM-01 takes the header alone for whole, and its regions only as whole and unused as they have to be", () =>
    Effect.gen(function*() {
      const whole = sharedHeaderOf()
      const bare = yield* reportOn(whole.subarray(0, 216))
      assert.deepInclude(bare, { problems: [], rows: [] })
      assert.deepInclude(bare.summary, { regions: "none, the header alone", freeSlots: 0 })

      const cut = yield* reportOn(whole.subarray(0, offsetOfSlot(2)))
      assert.match(onlyProblem(cut).what, /^length is 1048 bytes, expected at least 65536 bytes/)
      assert.deepInclude(cut.summary, { regions: "cut off", freeSlots: 1, liveSlots: 1 })
      assert.lengthOf(cut.rows, 2)

      const used: ReadonlyArray<readonly [offset: number, region: string]> = [
        [220, "lock table"],
        [791, "witness region"],
        [1176, "committed readers bitmap"],
        [1177, "space behind the regions"],
        [65535, "space behind the regions"]
      ]
      for (const [offset, region] of used) {
        const problem = onlyProblem(yield* reportOn(written(whole, offset, Uint8Array.of(7))))
        assert.deepStrictEqual(problem, {
          offset,
          what: `the ${region} is 7 here, expected zeros: nothing uses it`,
          severity: "corrupt"
        })
      }
    }))

  it.effect("SHM-11 says which slot does not check, and counts the others by who has them", () =>
    Effect.gen(function*() {
      const process = { pid: 9, birth: 3n }
      const words = new DataView(new ArrayBuffer(16))
      words.setBigUint64(0, TransactionSlot.claimingWord(process), true)
      words.setBigUint64(8, TransactionSlot.cleaningWord(process), true)
      const claiming = written(sharedHeaderOf(), offsetOfSlot(0), new Uint8Array(words.buffer, 0, 8))
      const both = written(claiming, offsetOfSlot(2), new Uint8Array(words.buffer, 8, 8))
      const report = yield* reportOn(both)
      assert.deepStrictEqual(report.problems, [])
      assert.deepInclude(report.summary, { freeSlots: 0, liveSlots: 1, claimingSlots: 1, cleaningSlots: 1 })
      assert.deepStrictEqual(report.rows.map(({ fields }) => fields["tag"]), ["claiming", "live", "cleaning"])

      const damaged = yield* reportOn(written(both, offsetOfSlot(1) + 56, Uint8Array.of(9)))
      assert.deepStrictEqual(onlyProblem(damaged), {
        offset: offsetOfSlot(1) + 56,
        what: "of transaction slot 1 the state is 9, expected 0 ... 4",
        severity: "corrupt"
      })
      assert.deepInclude(damaged.summary, { damagedSlots: 1, liveSlots: 0, lowestBeginSequence: null })
      assert.deepStrictEqual(damaged.rows.map(({ valid }) => valid), [true, false, true])
      assert.isTrue(Object.values(damaged.rows[1]?.fields ?? {}).every((value) => value === null))

      // A mark that was meant for the transaction before this one.
      const late = { ...liveSlot, abortMark: TransactionSlot.abortMarkOf(299n) }
      const marked = yield* reportOn(written(sharedHeaderOf(), offsetOfSlot(1), TransactionSlot.encode(late)))
      assert.deepInclude(marked.rows[1]?.fields["flags"], { isMarkedForAbort: false })
    }))

  it.effect("SHM-04, SHM-06 a window that is open is no damage", () =>
    Effect.gen(function*() {
      const open = yield* reportOn(sharedHeaderOf({ snapshotSequence: 9n }))
      assert.deepStrictEqual(open.problems, [])
      assert.match(publishedIn(open), /^in the middle of a publication/)
      assert.strictEqual(field(open.header, "snapshotSequence"), 9n)

      const unpublished = yield* reportOn(sharedHeaderOf({ snapshotSequence: 1n, nextTxnId: 0n }))
      assert.deepStrictEqual(unpublished.problems, [])
      assert.match(publishedIn(unpublished), /^nothing yet/)
      assert.strictEqual(field(unpublished.summary, "nextTransactionId"), "not known yet")
    }))

  /** A file that holds something else each time its header is read. */
  const changing = (headers: (look: number) => Uint8Array): VfsFile & { readonly looks: () => number } => {
    let looks = 0
    const unused = Effect.die(new Error("inspect only reads"))
    const read = (buffer: Uint8Array, position: number) => {
      const bytes = headers(position === 0 ? looks++ : looks)
      const part = bytes.subarray(position, position + buffer.length)
      buffer.set(part)
      return part.length
    }
    return {
      path: "/data/a.db.fsqlite-shm",
      looks: () => looks,
      read: (buffer, position) => Effect.sync(() => read(buffer, position)),
      readSync: read,
      write: () => unused,
      writeAndSyncData: () => unused,
      hasWriteQueue: () => false,
      syncData: unused,
      syncFull: unused,
      truncate: () => unused,
      size: unused
    }
  }

  it.effect("SHM-04 shows numbers only from between two looks at the same sequence, or says that it does not", () =>
    Effect.gen(function*() {
      const at = (sequence: bigint, commitSeq: bigint) =>
        sharedHeaderOf({ snapshotSequence: sequence, commitSeq: CommitSeq.make(commitSeq) })
      // A publication comes between the first looks; the look in the middle of three alike is shown.
      const states = [at(2n, 1n), at(3n, 1n), at(4n, 2n), at(4n, 2n), at(4n, 3n)]
      const settled = changing((look) => states[Math.min(look, states.length - 1)] ?? at(0n, 0n))
      const seen = yield* inspectSharedHeader({ file: settled, bytes: 216 })
      assert.strictEqual(settled.looks(), 5)
      assert.deepInclude(seen.header, { snapshotSequence: 4n, commitSequence: 2n })
      assert.deepInclude(seen.summary, { published: "as a whole" })

      const restless = changing((look) => at(BigInt(look) * 2n, BigInt(look)))
      const moving = yield* inspectSharedHeader({ file: restless, bytes: 216 })
      assert.deepStrictEqual(moving.problems, [])
      assert.match(publishedIn(moving), /^being changed/)
      assert.isBelow(restless.looks(), 100)
    }))

  it.effect("RC-27 a header that is still being filled is a tail, and so is one that never got its name", () =>
    Effect.gen(function*() {
      const filling = written(sharedHeaderOf(), 0, new TextEncoder().encode("FSQLINI\0"))
      const report = yield* reportOn(filling)
      assert.deepInclude(report, { kind: "shared-memory-header", header: null })
      assert.deepStrictEqual(onlyProblem(report), {
        offset: 0,
        what: "the header is still being filled by process 1234 (RC-27)",
        severity: "tail"
      })
      assert.match(onlyProblem(yield* reportOn(filling.subarray(0, 20))).what, /filled by whoever makes it/)
      const temporary = yield* reportOn(sharedHeaderOf().subarray(0, 99), "/data/.tmp-a.db.fsqlite-shm-0011aabb")
      assert.strictEqual(onlyProblem(temporary).severity, "tail")
    }))

  it.live.skipIf(process.platform !== "linux")(
    "SHM-04 reads whole triples beside a process that publishes",
    () =>
      Effect.gen(function*() {
        const database = `${yield* temporaryDirectory}/a.db`
        const header = yield* SharedHeaderService.SharedHeader.pipe(
          Effect.provide(
            yield* Layer.build(
              SharedHeaderService.layer({ database, pageSize: PageSize.make(4096), slots: 4 }).pipe(
                Layer.provide([SharedMemory.layerFile, NodeVfs.layer])
              )
            )
          )
        )
        const stateOf = (n: number) => ({
          commitSeq: CommitSeq.make(BigInt(n)),
          schemaEpoch: SchemaEpoch.make(BigInt(n)),
          ecsEpoch: BigInt(n)
        })
        const publisher = yield* header.becomePublisher({ ...stateOf(0), nextTxnId: 1n })
        let published = 0
        const publishing = yield* Effect.forkChild(Effect.forever(Effect.suspend(() => {
          for (let i = 0; i < 2000; i++) publisher.publish(stateOf(++published))
          return Effect.yieldNow
        })))
        for (let i = 0; i < 50; i++) {
          const report = yield* Effect.gen(function*() {
            const file = yield* (yield* Vfs).open(header.path, { access: "read" })
            return yield* inspectSharedHeader({ file, bytes: yield* file.size })
          }).pipe(Effect.scoped, Effect.provide(NodeVfs.layerVfs))
          assert.deepStrictEqual(report.problems, [])
          if (publishedIn(report) !== "as a whole") continue
          const commitSeq = field(report.header, "commitSequence")
          assert.strictEqual(field(report.header, "schemaEpoch"), commitSeq)
          assert.strictEqual(field(report.header, "ecsEpoch"), commitSeq)
        }
        yield* Fiber.interrupt(publishing)
        assert.isAbove(published, 0)
      }).pipe(Effect.scoped, Effect.provide(Logger.layer([])))
  )
})
