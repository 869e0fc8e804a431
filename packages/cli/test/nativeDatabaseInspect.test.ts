import { assert, describe, it } from "@effect/vitest"
import * as NativeCoordinator from "@tidemark/coordinator/NativeCoordinator"
import * as Pager from "@tidemark/coordinator/Pager"
import * as SharedHeader from "@tidemark/coordinator/SharedHeaderFormat"
import { PageSize, toPageNumber } from "@tidemark/core/Scalars"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import { directoryOf, nameOf } from "@tidemark/wal/AtomicFile"
import { capsulePath } from "@tidemark/wal/CapsuleFormat"
import { checkpointMarkPath } from "@tidemark/wal/CheckpointMarkFormat"
import { markersDirectory } from "@tidemark/wal/MarkerFormat"
import * as NativeLog from "@tidemark/wal/NativeLog"
import { Effect, Fiber, Layer, Logger } from "effect"
import { copyFileSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs"
import { DatabaseSync } from "node:sqlite"
import { inspectNative, isNativeDatabase } from "../src/inspection/nativeInspection.ts"
import { makeDatabase } from "./support/databases.ts"
import { capsule, field, flipped, listed, offsetOfRecord, onlyProblem, sharedHeaderOf } from "./support/inspected.ts"
import { capsuleAt, makeNative } from "./support/nativeDatabases.ts"
import { contentsOf, documentOf, objectsIn, temporaryDirectory, unchanged } from "./support/program.ts"

const segmentName = "segment-000000.log"

/** What is said of a database on this disk, without a byte of it being changed. */
const inspected = (path: string) =>
  Effect.gen(function*() {
    const vfs = yield* Vfs
    const before = contentsOf(directoryOf(path))
    assert.isTrue(yield* isNativeDatabase(vfs, path))
    const { inspection } = yield* inspectNative(vfs, path)
    const report = yield* listed(inspection)
    assert.deepStrictEqual(contentsOf(directoryOf(path)), before)
    return report
  }).pipe(Effect.provide(NodeVfs.layerVfs))

/** Without what its makers log. */
const made = Effect.flatMap(
  temporaryDirectory,
  (directory) => Effect.provide(makeNative(directory, "a", { commits: 4 }), Logger.layer([]))
)

const commitsIn = ({ rows }: Effect.Success<ReturnType<typeof inspected>>) => rows.map(({ fields }) => fields["commit"])

const checkpointed = (path: string) =>
  Effect.gen(function*() {
    yield* (yield* NativeLog.NativeLog).checkpoint("full")
  }).pipe(
    Effect.scoped,
    Effect.provide(NativeLog.layer({ database: path }).pipe(Layer.provide(NodeVfs.layer)), { local: true })
  )

describe.skipIf(process.platform !== "linux")("inspect of a database with a native log", () => {
  it.live("RC-06 shows the log beside its file, and lists the markers with what becomes of each commit", () =>
    Effect.gen(function*() {
      const native = yield* made
      const { capsules, path } = native
      const directory = directoryOf(path)
      const ended = yield* unchanged(directory, "inspect", path, "--json", "--from", "0", "--to", "1")
      assert.strictEqual(ended.code, 0, ended.stderr)
      const document = documentOf(ended)
      assert.deepInclude(document, { kind: "native-database", path, valid: true, problems: [] })
      assert.deepInclude(document["header"], { pageSize: 4096, writeVersion: 3, readVersion: 3 })
      assert.deepInclude(document["summary"], {
        cases: "RC-06",
        lastSequence: "4",
        checkpointedThrough: null,
        commitsToReplay: 4,
        capsuleBytesToReplay: capsules.reduce((sum, file) => sum + readFileSync(file).length, 0),
        capsulesWithoutMarker: 0,
        isReadOnly: false,
        tornTailBytes: 0,
        sharedHeader: null
      })
      const markerFile = readFileSync(`${markersDirectory(path)}/${segmentName}`)
      assert.deepInclude(objectsIn(document, "segments")[0], {
        name: segmentName,
        bytes: markerFile.length,
        records: 5
      })
      const [genesis, first, ...others] = objectsIn(document, "records")
      assert.lengthOf(others, 0)
      assert.deepInclude(genesis, { index: 0, commit: null, pages: null, chainOk: true })
      assert.deepInclude(first, {
        segment: segmentName,
        index: 1,
        valid: true,
        commitSequence: "1",
        capsuleObjectId: nameOf(capsuleAt(native, 0)),
        commit: "to be replayed",
        capsuleBytes: readFileSync(capsuleAt(native, 0)).length
      })
      // A capsule that is gone: exit code 1.
      rmSync(capsuleAt(native, 3))
      const lost = yield* unchanged(directory, "inspect", path, "--json")
      assert.strictEqual(lost.code, 1, lost.stderr)
      assert.deepInclude(documentOf(lost), { valid: false })
    }))

  it.live("RC-15 names the capsule that is missing or another one, and the commits that are not replayed", () =>
    Effect.gen(function*() {
      const native = yield* made
      const path = capsuleAt(native, 2)
      const bytes = readFileSync(path)
      writeFileSync(path, flipped(bytes, bytes.length - 100))
      const damaged = yield* inspected(native.path)
      assert.deepInclude(onlyProblem(damaged), { path, severity: "corrupt" })
      assert.deepStrictEqual(commitsIn(damaged), [
        null,
        "to be replayed",
        "to be replayed",
        "not replayed",
        "not replayed"
      ])
      rmSync(path)
      assert.deepInclude(onlyProblem(yield* inspected(native.path)), { path, severity: "corrupt" })
    }))

  it.live("RC-14, RC-16, RC-26 tells what was never acknowledged from damage", () =>
    Effect.gen(function*() {
      const native = yield* made
      const orphan = capsulePath(native.path, capsule.id)
      writeFileSync(orphan, capsule.bytes)
      const left = yield* inspected(native.path)
      assert.deepInclude(onlyProblem(left), { path: orphan, severity: "tail" })
      assert.strictEqual(field(left.summary, "capsulesWithoutMarker"), 1)
      rmSync(orphan)

      const markers = readFileSync(native.markers)
      writeFileSync(native.markers, Buffer.concat([markers, Buffer.alloc(50, 1)]))
      const torn = yield* inspected(native.path)
      assert.deepInclude(onlyProblem(torn), { path: native.markers, offset: markers.length, severity: "tail" })
      assert.deepInclude(torn.summary, { cases: "RC-14 RC-06", tornTailBytes: 50 })

      writeFileSync(native.markers, flipped(markers, offsetOfRecord(2) + 3))
      const damaged = yield* inspected(native.path)
      assert.deepInclude(onlyProblem(damaged), {
        path: native.markers,
        offset: offsetOfRecord(2),
        severity: "corrupt"
      })
      assert.deepInclude(damaged.summary, { isReadOnly: true, commitsToReplay: 1 })
      assert.deepStrictEqual(commitsIn(damaged), [null, "to be replayed", null, null, null])
      assert.deepStrictEqual(damaged.rows.map(({ valid }) => valid), [true, true, false, false, false])
    }))

  it.live("RC-21 shows the history of a log that is checkpointed, until SQLite goes on without it", () =>
    Effect.gen(function*() {
      const { path } = yield* made
      yield* checkpointed(path)
      const report = yield* inspected(path)
      assert.deepStrictEqual(report.problems, [])
      assert.deepInclude(report.summary, { lastSequence: 4n, checkpointedThrough: 4n, commitsToReplay: 0 })
      assert.deepStrictEqual(commitsIn(report), [null, ...Array.from({ length: 4 }, () => "in the database file")])

      rmSync(`${path}-shm`, { force: true })
      const sqlite = new DatabaseSync(path)
      sqlite.exec("PRAGMA wal_autocheckpoint = 0; INSERT INTO t VALUES (100, 'more')")
      const isNative = yield* Effect.provide(
        Effect.flatMap(Vfs, (vfs) => isNativeDatabase(vfs, path)),
        NodeVfs.layerVfs
      )
      sqlite.close()
      assert.isFalse(isNative)
      // No log of its own was ever there.
      const other = makeDatabase(directoryOf(path), "b")
      assert.isFalse(
        yield* Effect.provide(Effect.flatMap(Vfs, (vfs) => isNativeDatabase(vfs, other.path)), NodeVfs.layerVfs)
      )
    }))

  it.live("SHM-02 looks at the shared-memory header beside it, which has to be for pages of its size", () =>
    Effect.gen(function*() {
      const { path } = yield* made
      const header = SharedHeader.sharedHeaderPath(path)
      writeFileSync(header, sharedHeaderOf())
      const whole = yield* inspected(path)
      assert.deepStrictEqual(whole.problems, [])
      assert.deepStrictEqual(field(whole.summary, "sharedHeader"), {
        commitSequence: 21n,
        published: "as a whole",
        publisher: "process 1234",
        liveSlots: 1
      })
      writeFileSync(header, sharedHeaderOf({ pageSize: PageSize.make(512) }))
      assert.deepStrictEqual(onlyProblem(yield* inspected(path)), {
        path: header,
        offset: 12,
        what: "the page size is 512, and the database has pages of 4096 bytes",
        severity: "corrupt"
      })
      truncateSync(header, 30)
      const cut = yield* inspected(path)
      assert.deepInclude(onlyProblem(cut), { path: header, offset: 0, severity: "corrupt" })
      assert.deepInclude(field(cut.summary, "sharedHeader"), { commitSequence: null })
    }))

  it.live(
    "RC-15 takes nothing for damage that a process which commits and checkpoints meanwhile does",
    () =>
      Effect.gen(function*() {
        const directory = yield* temporaryDirectory
        const path = `${directory}/a.db`
        copyFileSync(makeDatabase(directory, "b").base, path)
        const engine = Pager.layerNative.pipe(
          Layer.provideMerge(NativeCoordinator.layer),
          Layer.provideMerge(NativeLog.layer({ database: path, autoCheckpointFrames: 4 })),
          Layer.provideMerge(NodeVfs.layer)
        )
        yield* Effect.gen(function*() {
          const pager = yield* Pager.Pager
          const vfs = yield* Vfs
          let commits = 0
          const committing = yield* Effect.forkChild(Effect.forever(
            Effect.suspend(() => {
              const image = new Uint8Array(4096).fill(commits++)
              return pager.withTransaction((into) => into.write(toPageNumber(3 + commits % 5), image))
            })
          ))
          yield* pager.withTransaction((into) => into.write(toPageNumber(3), new Uint8Array(4096)))
          const looking = Effect.gen(function*() {
            while (commits < 150) {
              const { inspection } = yield* inspectNative(vfs, path)
              assert.deepStrictEqual(inspection.problems.filter(({ severity }) => severity === "corrupt"), [])
              assert.isTrue((yield* listed(inspection)).rows.every(({ valid }) => valid))
            }
          })
          // Commits that fail end the looking.
          yield* Effect.raceFirst(looking, Fiber.join(committing))
          yield* Fiber.interrupt(committing)
          assert.isAbove(readFileSync(checkpointMarkPath(path)).length, 0)
        }).pipe(Effect.scoped, Effect.provide(engine, { local: true }))
      }).pipe(Effect.provide(Logger.layer([]))),
    20_000
  )
})
