/**
 * Mapped files: several processes, files that must not be mapped, and what is left when something fails.
 */
import { assert, describe, it } from "@effect/vitest"
import type { NativeBackend } from "@tidemark/platform/FileLock"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { regionGrainBytes, SharedMemory } from "@tidemark/platform/SharedMemory"
import { Vfs, type VfsFile } from "@tidemark/platform/Vfs"
import { VfsError, type VfsOperation } from "@tidemark/platform/VfsError"
import { Effect, Exit, Result, Scope } from "effect"
import { spawn, spawnSync } from "node:child_process"
import { once } from "node:events"
import * as NodeFs from "node:fs"
import * as NodePath from "node:path"
import { makeFileRegions } from "../src/internal/fileRegions.ts"
import { proveMapping } from "../src/internal/mapping.ts"
import { loadNative, type Native } from "../src/internal/native.ts"
import { canMap, canMount, smallFileSystem, temporaryDirectory } from "./support/sharedFiles.ts"
import { programPath } from "./support/sharedWorkers.ts"

const backends = (["koffi", "node:ffi"] satisfies ReadonlyArray<NativeBackend>).filter(canMap)

const name = Effect.map(temporaryDirectory, (directory) => `${directory}/a.db.fsqlite-shm`)

const native = Effect.sync(() => Result.getOrThrow(loadNative(backends)))

const content = Uint8Array.of(1, 2, 3)

const create = (path: string, bytes = regionGrainBytes) =>
  SharedMemory.use((memory) => memory.create(path, { bytes, content }))

/** Everything about a file that a call which is to leave it alone must leave alone. */
const factsOf = (path: string) => {
  const { blocks, ctimeNs, ino, mtimeNs, size } = NodeFs.statSync(path, { bigint: true })
  return { blocks, ctimeNs, ino, mtimeNs, size, contents: NodeFs.readFileSync(path).toString("base64") }
}

/** Ends a program and answers its code or signal, and what it printed. */
const run = (...args: ReadonlyArray<string>) =>
  Effect.acquireUseRelease(
    // A program that is to end with a signal need not leave a core file.
    Effect.sync(() =>
      spawn("sh", ["-c", "ulimit -c 0; exec \"$@\"", "sh", process.execPath, "--no-warnings", ...args], {
        stdio: ["ignore", "pipe", "inherit"]
      })
    ),
    (child) =>
      Effect.promise(async () => {
        let output = ""
        child.stdout.on("data", (chunk) => {
          output += String(chunk)
        })
        // Rejects when there is no such program.
        const [code, signal] = await once(child, "close") as [number | null, NodeJS.Signals | null]
        return { end: signal ?? code, lines: output.trimEnd().split("\n") }
      }),
    (child) => Effect.sync(() => child.kill("SIGKILL"))
  )

type Gate = (operation: VfsOperation, path: string) => Effect.Effect<void, VfsError>

/** The files of this machine, with a gate in front of every call. */
const gated = Effect.fnUntraced(function*(ask: Gate) {
  const vfs = yield* Vfs
  // Asked when a call runs, not when it is described.
  const gate: Gate = (operation, path) => Effect.suspend(() => ask(operation, path))
  const gatedFile = (file: VfsFile): VfsFile => ({
    ...file,
    read: (buffer, position) => Effect.andThen(gate("read", file.path), file.read(buffer, position)),
    write: (buffers, position) => Effect.andThen(gate("write", file.path), file.write(buffers, position)),
    writeAndSyncData: (buffers, position, options) =>
      Effect.andThen(gate("write", file.path), file.writeAndSyncData(buffers, position, options)),
    syncData: Effect.andThen(gate("syncData", file.path), file.syncData),
    syncFull: Effect.andThen(gate("syncFull", file.path), file.syncFull),
    truncate: (size) => Effect.andThen(gate("truncate", file.path), file.truncate(size)),
    size: Effect.andThen(gate("size", file.path), file.size)
  })
  const through = Vfs.of({
    ...vfs,
    open: (path, options) => Effect.andThen(gate("open", path), Effect.map(vfs.open(path, options), gatedFile)),
    remove: (path) => Effect.andThen(gate("remove", path), vfs.remove(path)),
    rename: (from, to) => Effect.andThen(gate("rename", from), vfs.rename(from, to))
  })
  // Devices that this one has tried, whatever others in this process have.
  return makeFileRegions(through, backends, new Set())
})

const isTemporary = (path: string) => NodePath.basename(path).startsWith(".tmp-a.db.fsqlite-shm-")

describe.runIf(backends.length > 0)("SharedMemory in files", () => {
  it.live("two processes that add to one word lose nothing", () =>
    Effect.gen(function*() {
      const path = yield* name
      const region = yield* create(path)
      region.store(0, 0n)
      const rounds = 200_000
      const parties = [...backends, ...backends].slice(0, 2)
      const ends = yield* Effect.all(
        parties.map((backend) => run(programPath("sharedWords.ts"), path, backend, String(rounds), "2")),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(ends.map(({ end }) => end), [0, 0])
      assert.strictEqual(region.load(0), BigInt(2 * rounds))
      assert.strictEqual(region.load(8), BigInt(2 * rounds))
    }).pipe(Effect.provide(SharedMemory.layerFile)))

  it.live("RC-18 a file that is created has a new inode, no hole, and is in the place of the old one at once", () =>
    Effect.gen(function*() {
      const path = yield* name
      const { lseek } = yield* native
      const inodes = new Set<number>()
      for (const bytes of [8, 5 * regionGrainBytes - 1, 40 * regionGrainBytes]) {
        const region = yield* create(path, bytes)
        const stats = NodeFs.statSync(path)
        assert.strictEqual(region.identity, `${stats.dev}:${stats.ino}`)
        assert.strictEqual(stats.size, region.bytes)
        assert.isAtLeast(stats.blocks * 512, region.bytes)
        inodes.add(stats.ino)
        const descriptor = NodeFs.openSync(path, "r")
        assert.strictEqual(lseek(descriptor, 0, 4), region.bytes)
        NodeFs.closeSync(descriptor)
        assert.deepStrictEqual(NodeFs.readdirSync(NodePath.dirname(path)), [NodePath.basename(path)])
      }
      assert.strictEqual(inodes.size, 3)
    }).pipe(Effect.provide(SharedMemory.layerFile)))

  it.live("RC-18 a file that is too short, no multiple of 64 KiB, or has a hole is refused and not touched", () =>
    Effect.gen(function*() {
      const memory = yield* SharedMemory
      const path = yield* name
      const full = new Uint8Array(3 * regionGrainBytes).fill(9)
      const cases: ReadonlyArray<readonly [string, RegExp, () => void]> = [
        ["empty", /its 0 bytes/, () => NodeFs.writeFileSync(path, "")],
        ["shorter than a header", /its 215 bytes/, () => NodeFs.writeFileSync(path, full.subarray(0, 215))],
        ["a byte short", /its 65535 bytes/, () => NodeFs.writeFileSync(path, full.subarray(1, regionGrainBytes))],
        ["a byte long", /its 65537 bytes/, () => NodeFs.writeFileSync(path, full.subarray(0, regionGrainBytes + 1))],
        ["nothing but a hole", /hole at byte 0/, () => {
          NodeFs.writeFileSync(path, "")
          NodeFs.truncateSync(path, regionGrainBytes)
        }],
        ["a hole in the middle", /hole at byte 65536/, () => {
          NodeFs.writeFileSync(path, full.subarray(0, regionGrainBytes))
          const descriptor = NodeFs.openSync(path, "r+")
          NodeFs.writeSync(descriptor, full, 0, regionGrainBytes, 2 * regionGrainBytes)
          NodeFs.fsyncSync(descriptor)
          NodeFs.closeSync(descriptor)
        }],
        ["a hole at the end", /hole at byte 65536/, () => {
          NodeFs.writeFileSync(path, full.subarray(0, regionGrainBytes))
          NodeFs.truncateSync(path, 2 * regionGrainBytes)
        }]
      ]
      for (const [what, reason, make] of cases) {
        make()
        const before = factsOf(path)
        const error = yield* Effect.flip(Effect.scoped(memory.open(path)))
        assert.deepInclude(error, { _tag: "SharedMemoryUnmappable", path, isRetryable: false }, what)
        assert.match(error.message, reason, what)
        assert.deepStrictEqual(factsOf(path), before, what)
      }
      // Blocks that are reserved and were never written: a hole as long as nobody has read them.
      NodeFs.rmSync(path)
      assert.strictEqual(spawnSync("fallocate", ["-l", String(regionGrainBytes), path]).status, 0)
      assert.match((yield* Effect.flip(Effect.scoped(memory.open(path)))).message, /hole at byte 0/)
      NodeFs.rmSync(path)
      assert.strictEqual(spawnSync("mkfifo", [path]).status, 0)
      assert.match((yield* Effect.flip(Effect.scoped(memory.open(path)))).message, /no regular file/)
      NodeFs.rmSync(path)
      // The measure: as it should be, it is mapped.
      NodeFs.writeFileSync(path, full)
      assert.strictEqual((yield* memory.open(path))?.bytes, full.length)
    }).pipe(Effect.provide(SharedMemory.layerFile)))

  it.live("a directory is EISDIR, a missing directory on the way is nothing for a reader and ENOENT for a creator", () =>
    Effect.gen(function*() {
      const memory = yield* SharedMemory
      const parent = yield* temporaryDirectory
      const directory = `${parent}/directory`
      NodeFs.mkdirSync(directory)
      assert.deepInclude(yield* Effect.flip(memory.open(directory)), { _tag: "VfsError", code: "EISDIR" })
      assert.deepInclude(yield* Effect.flip(create(directory)), { _tag: "VfsError", operation: "rename" })
      for (const path of [`${directory}/missing/shm`, `${directory}/file/shm`]) {
        NodeFs.writeFileSync(`${directory}/file`, "")
        assert.isUndefined(yield* memory.open(path))
        assert.isUndefined(yield* memory.peek(path, 8))
        assert.isUndefined(yield* memory.identify(path))
        assert.deepInclude(yield* Effect.flip(create(path)), { _tag: "VfsError", operation: "open" })
      }
      assert.deepStrictEqual(NodeFs.readdirSync(parent), ["directory"])
    }).pipe(Effect.provide(SharedMemory.layerFile)))

  it.live("opening touches only what is its own, creating only temporary files; nothing is ever cut", () =>
    Effect.gen(function*() {
      const path = yield* name
      const calls: Array<{ readonly operation: VfsOperation; readonly path: string }> = []
      const memory = yield* gated((operation, path) =>
        Effect.sync(() => {
          calls.push({ operation, path })
        })
      )
      const region = yield* memory.create(path, { bytes: 8, content })
      const before = factsOf(path)
      const again = yield* memory.open(path)
      assert.deepStrictEqual(factsOf(path), before)
      assert.deepStrictEqual(again?.copy(0, 3), content)
      yield* memory.create(path, { bytes: 8, content })
      assert.strictEqual(region.load(8), 0n)
      assert.deepStrictEqual(calls.filter(({ path }) => !isTemporary(path)), [])
      const operations = new Set(calls.map(({ operation }) => operation))
      operations.delete("remove")
      assert.deepStrictEqual(operations, new Set<VfsOperation>(["open", "write", "syncFull", "rename"]))
    }).pipe(Effect.provide(NodeVfs.layerVfs)))

  it.live("whichever call of a creation fails, the old file keeps its name and no other is left", () =>
    Effect.gen(function*() {
      const path = yield* name
      let countdown = Infinity
      const memory = yield* gated((operation, path) =>
        countdown-- === 0
          ? Effect.fail(new VfsError({ operation, path, code: "EIO", cause: "of the test" }))
          : Effect.void
      )
      const old = yield* memory.create(path, { bytes: 8, content })
      old.store(8, 5n)
      const before = factsOf(path)
      const bytes = 20 * regionGrainBytes
      const failed: Array<VfsOperation> = []
      for (let call = 0;; call++) {
        countdown = call
        const result = yield* Effect.result(Effect.scoped(memory.create(path, { bytes, content: Uint8Array.of(9) })))
        if (Result.isSuccess(result)) break
        if (result.failure._tag === "VfsError") failed.push(result.failure.operation)
        assert.deepStrictEqual(factsOf(path), before)
        assert.deepStrictEqual(NodeFs.readdirSync(NodePath.dirname(path)), [NodePath.basename(path)])
      }
      assert.deepStrictEqual(failed, ["open", "write", "write", "write", "syncFull", "rename"])
      assert.strictEqual(old.load(8), 5n)
      assert.notStrictEqual(yield* memory.identify(path), old.identity)
    }).pipe(Effect.provide(NodeVfs.layerVfs)))

  it.live("a device is tried once, beside the file, and a try that somebody sweeps away is no missing file", () =>
    Effect.gen(function*() {
      const path = yield* name
      yield* Effect.provide(create(path), SharedMemory.layerFile)
      let isSwept = true
      let tries = 0
      const memory = yield* gated((operation, path) =>
        Effect.sync(() => {
          if (operation !== "syncFull") return
          tries++
          if (isSwept) NodeFs.unlinkSync(path)
        })
      )
      const error = yield* Effect.flip(Effect.scoped(memory.open(path)))
      assert.deepInclude(error, { _tag: "VfsError", code: "ENOENT" })
      isSwept = false
      for (let time = 0; time < 3; time++) assert.isDefined(yield* memory.open(path))
      assert.strictEqual(tries, 2)
      assert.deepStrictEqual(NodeFs.readdirSync(NodePath.dirname(path)), [NodePath.basename(path)])
    }).pipe(Effect.provide(NodeVfs.layerVfs)))

  it.live.runIf(canMount)(
    "a full file system refuses a creation with ENOSPC, and the old file keeps its name",
    () =>
      Effect.gen(function*() {
        const memory = yield* SharedMemory
        // Three grains: one for the file, one for the self-test, which is given back; not enough for the next.
        const path = `${yield* smallFileSystem(3 * regionGrainBytes)}/a.db.fsqlite-shm`
        const old = yield* memory.create(path, { bytes: 8, content })
        const before = factsOf(path)
        const error = yield* Effect.flip(Effect.scoped(memory.create(path, { bytes: 3 * regionGrainBytes, content })))
        assert.deepInclude(error, { _tag: "VfsError", code: "ENOSPC" })
        assert.deepStrictEqual(factsOf(path), before)
        assert.deepStrictEqual(NodeFs.readdirSync(NodePath.dirname(path)), [NodePath.basename(path)])
        // Every page of the old one has its block: a full disk cannot kill who stores into it.
        NodeFs.writeFileSync(`${path}-filler`, new Uint8Array(2 * regionGrainBytes))
        for (let offset = 0; offset < old.bytes; offset += 4096) old.store(offset, 1n)
        assert.deepInclude(yield* Effect.flip(create(path)), { _tag: "VfsError", code: "ENOSPC" })
      }).pipe(Effect.provide(SharedMemory.layerFile))
  )

  it.live("who cuts a mapped file kills its readers with SIGBUS; who replaces it does not", () =>
    Effect.gen(function*() {
      const path = yield* name
      const replaced = yield* run(programPath("sharedTruncated.ts"), path, "replace")
      assert.deepStrictEqual(replaced, { end: 0, lines: ["replace done", "7"] })
      const cut = yield* run(programPath("sharedTruncated.ts"), path, "cut")
      assert.deepStrictEqual(cut, { end: "SIGBUS", lines: ["cut done"] })
    }))

  it.live("a mapping lives as long as somebody refers to its buffer, and then goes", () =>
    Effect.gen(function*() {
      const { end, lines } = yield* run("--expose-gc", programPath("sharedCollected.ts"), yield* name)
      assert.deepStrictEqual({ end, lines }, { end: 0, lines: ["10 1 0"] })
    }))

  it.live("neither a refused nor an opened file leaves a descriptor open", () =>
    Effect.gen(function*() {
      const memory = yield* SharedMemory
      const path = yield* name
      const count = () => NodeFs.readdirSync("/proc/self/fd").length
      yield* Effect.scoped(create(path))
      const before = count()
      const scope = yield* Scope.make()
      for (let time = 0; time < 3; time++) {
        yield* Scope.provide(create(path), scope)
        yield* Scope.provide(memory.open(path), scope)
        yield* memory.peek(path, 8)
      }
      NodeFs.writeFileSync(`${path}-short`, "")
      for (let time = 0; time < 3; time++) yield* Effect.flip(memory.open(`${path}-short`))
      assert.strictEqual(count(), before)
      yield* Scope.close(scope, Exit.void)
    }).pipe(Effect.provide(SharedMemory.layerFile)))

  it.effect("the self-test finds a mapping that does not reach the file", () =>
    Effect.gen(function*() {
      const path = yield* name
      const works = yield* native
      NodeFs.writeFileSync(path, new Uint8Array(regionGrainBytes))
      const descriptor = NodeFs.openSync(path, "r+")
      yield* Effect.addFinalizer(() => Effect.sync(() => NodeFs.closeSync(descriptor)))
      assert.isUndefined(proveMapping(works, descriptor))
      const pretends: Native = { ...works, mapOver: () => 0 }
      assert.match(proveMapping(pretends, descriptor) ?? "", /does not arrive in the file/)
      const refuses: Native = { ...works, mapOver: () => 19 }
      assert.match(proveMapping(refuses, descriptor) ?? "", /errno 19/)
    }))

  it.effect("a descriptor that cannot be mapped is answered with the errno of the system, through either way", () =>
    Effect.gen(function*() {
      const path = yield* name
      NodeFs.writeFileSync(path, new Uint8Array(regionGrainBytes))
      const readOnly = NodeFs.openSync(path, "r")
      yield* Effect.addFinalizer(() => Effect.sync(() => NodeFs.closeSync(readOnly)))
      for (const backend of backends) {
        const { lseek } = Result.getOrThrow(loadNative([backend]))
        assert.strictEqual(lseek(readOnly, 0, 4), regionGrainBytes)
        assert.strictEqual(lseek(readOnly, 2 * regionGrainBytes, 4), -6, "ENXIO: behind the end")
        // EACCES: a shared mapping that is stored into needs a descriptor that may write.
        assert.match(proveMapping(Result.getOrThrow(loadNative([backend])), readOnly) ?? "", /errno 13/)
      }
    }))
})

describe("SharedMemory without native access", () => {
  it.effect("a file is neither opened nor created, with the reason; looking at it works", () =>
    Effect.gen(function*() {
      const memory = yield* SharedMemory
      const path = yield* name
      for (const call of [memory.open(path), create(path)]) {
        const error = yield* Effect.flip(Effect.scoped(call))
        assert.deepInclude(error, { _tag: "SharedMemoryUnavailable", path, isRetryable: false })
        assert.match(error.message, /native access/)
      }
      assert.deepStrictEqual(NodeFs.readdirSync(NodePath.dirname(path)), [])
      NodeFs.writeFileSync(path, content)
      assert.deepStrictEqual(yield* memory.peek(path, 2), content.subarray(0, 2))
      assert.isString(yield* memory.identify(path))
    }).pipe(Effect.provide(SharedMemory.layerFileBackends([]))))
})
