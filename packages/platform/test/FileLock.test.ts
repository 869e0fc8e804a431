import { assert, describe, it } from "@effect/vitest"
import { FileLock, type NativeBackend } from "@tidemark/platform/FileLock"
import { Effect, Exit, Result, Scope } from "effect"
import { execFile, spawn } from "node:child_process"
import { once } from "node:events"
import * as NodeFs from "node:fs"
import * as NodeOs from "node:os"
import * as NodePath from "node:path"

const isLinux = process.platform === "linux"
/** `node:ffi` came with Node 26.1. */
const hasNodeFfi = process.getBuiltinModule("node:ffi") !== undefined

const lockFile = Effect.map(
  Effect.acquireRelease(
    Effect.sync(() => NodeFs.mkdtempSync(NodePath.join(NodeOs.tmpdir(), "tidemark-lock-"))),
    (directory) => Effect.sync(() => NodeFs.rmSync(directory, { recursive: true, force: true }))
  ),
  (directory) => NodePath.join(directory, "lock")
)

const program = (name: string) => NodePath.join(import.meta.dirname, "programs", name)

const bytes = (start: number, length: number) => ({ start, length })

const locksOf = (path: string) =>
  Effect.map(
    FileLock,
    (locks) => (mode: "shared" | "exclusive", range: { start: number; length: number }) =>
      locks.acquire(path, { mode, range, create: true })
  )

/** `"taken"`, or the tag of the refusal. */
const attempt = <R>(acquire: Effect.Effect<void, { readonly _tag: string }, R>) =>
  Effect.map(Effect.result(acquire), Result.match({ onFailure: (error) => error._tag, onSuccess: () => "taken" }))

const backends: ReadonlyArray<{ readonly backend: NativeBackend; readonly isHere: boolean }> = [
  { backend: "koffi", isHere: isLinux },
  { backend: "node:ffi", isHere: isLinux && hasNodeFfi }
]

for (const { backend, isHere } of backends) {
  describe.runIf(isHere)(`FileLock through ${backend}`, () => {
    const layer = FileLock.layerBackends([backend])

    it.effect("an exclusive lock excludes everybody, shared ones exclude only exclusive ones", () =>
      Effect.gen(function*() {
        const acquire = yield* locksOf(yield* lockFile)
        yield* acquire("exclusive", bytes(0, 10))
        assert.strictEqual(yield* attempt(acquire("exclusive", bytes(0, 10))), "RangeLocked")
        assert.strictEqual(yield* attempt(acquire("shared", bytes(0, 10))), "RangeLocked")
        yield* acquire("shared", bytes(10, 10))
        yield* acquire("shared", bytes(10, 10))
        assert.strictEqual(yield* attempt(acquire("exclusive", bytes(10, 10))), "RangeLocked")
      }).pipe(Effect.provide(layer)))

    it.effect("only ranges that touch conflict, far behind the end of the file too", () =>
      Effect.gen(function*() {
        const path = yield* lockFile
        const acquire = yield* locksOf(path)
        const far = 2 ** 52
        for (const start of [0, 0x40000002, far]) {
          yield* acquire("exclusive", bytes(start + 10, 5))
          yield* Effect.scoped(acquire("exclusive", bytes(start, 10)))
          yield* Effect.scoped(acquire("exclusive", bytes(start + 15, 10)))
          assert.strictEqual(yield* attempt(acquire("exclusive", bytes(start, 11))), "RangeLocked")
          assert.strictEqual(yield* attempt(acquire("exclusive", bytes(start + 14, 1))), "RangeLocked")
        }
        assert.strictEqual(NodeFs.statSync(path).size, 0)
      }).pipe(Effect.provide(layer)))

    it.effect("the end of the scope gives the lock back, also while a child process shares the open file", () =>
      Effect.gen(function*() {
        const path = yield* lockFile
        const acquire = yield* locksOf(path)
        const scope = yield* Scope.make()
        yield* Scope.provide(acquire("exclusive", bytes(0, 1)), scope)
        const descriptor = NodeFs.readdirSync("/proc/self/fd").map(Number).find((number) =>
          NodeFs.readlinkSync(`/proc/self/fd/${number}`) === path
        )
        const child = spawn("sleep", ["60"], { stdio: ["ignore", "ignore", "ignore", descriptor] })
        yield* Effect.addFinalizer(() => Effect.sync(() => child.kill("SIGKILL")))
        assert.strictEqual(NodeFs.readlinkSync(`/proc/${child.pid}/fd/3`), path)
        yield* Scope.close(scope, Exit.void)
        assert.strictEqual(yield* attempt(acquire("exclusive", bytes(0, 1))), "taken")
      }).pipe(Effect.provide(layer)))

    it.effect("closing another descriptor of the file takes nothing away", () =>
      Effect.gen(function*() {
        const path = yield* lockFile
        const acquire = yield* locksOf(path)
        yield* acquire("exclusive", bytes(0, 1))
        NodeFs.readFileSync(path)
        assert.strictEqual(yield* attempt(acquire("exclusive", bytes(0, 1))), "RangeLocked")
      }).pipe(Effect.provide(layer)))

    it.effect("a refusal says which bytes of which file, and may be retried", () =>
      Effect.gen(function*() {
        const path = yield* lockFile
        const acquire = yield* locksOf(path)
        yield* acquire("shared", bytes(3, 4))
        const error = yield* Effect.flip(acquire("exclusive", bytes(3, 4)))
        assert.deepInclude(error, {
          _tag: "RangeLocked",
          path,
          start: 3,
          length: 4,
          mode: "exclusive",
          isRetryable: true,
          message: `bytes 3 ... 6 of ${path} are locked by somebody else`
        })
      }).pipe(Effect.provide(layer)))

    it.effect("a shared lock needs no write access, and a missing file is missing", () =>
      Effect.gen(function*() {
        const locks = yield* FileLock
        const path = yield* lockFile
        const missing = yield* Effect.flip(locks.acquire(path, { mode: "shared", range: bytes(0, 1) }))
        assert.deepInclude(missing, { _tag: "VfsError", operation: "open", code: "ENOENT" })
        // Nobody, root included, may open a running program for writing (ETXTBSY).
        const readOnly = process.execPath
        yield* locks.acquire(readOnly, { mode: "shared", range: bytes(0, 1) })
        const refused = yield* Effect.flip(locks.acquire(readOnly, { mode: "exclusive", range: bytes(0, 1) }))
        assert.deepInclude(refused, { _tag: "VfsError", code: "ETXTBSY" })
        const directory = yield* Effect.flip(
          locks.acquire(NodePath.dirname(path), { mode: "shared", range: bytes(0, 1) })
        )
        assert.deepInclude(directory, { _tag: "VfsError", code: "EISDIR" })
      }).pipe(Effect.provide(layer)))

    it.effect("neither a failed nor a finished acquisition leaves a descriptor open", () =>
      Effect.gen(function*() {
        const path = yield* lockFile
        const locks = yield* FileLock
        const acquire = yield* locksOf(path)
        const count = () => NodeFs.readdirSync("/proc/self/fd").length
        const before = count()
        yield* Effect.scoped(Effect.gen(function*() {
          yield* acquire("exclusive", bytes(0, 1))
          for (let failed = 0; failed < 5; failed++) yield* attempt(acquire("exclusive", bytes(0, 1)))
          for (let asked = 0; asked < 5; asked++) {
            yield* locks.isHeld(path, { mode: "exclusive", range: bytes(0, 1) })
          }
          assert.strictEqual(count(), before + 1)
        }))
        assert.strictEqual(count(), before)
      }).pipe(Effect.provide(layer)))
  })
}

describe.runIf(isLinux)("FileLock between processes", () => {
  it.effect("a holder that is killed with SIGKILL holds nothing any more", () =>
    Effect.gen(function*() {
      const path = yield* lockFile
      const acquire = yield* locksOf(path)
      const child = spawn(process.execPath, [program("holdLock.ts"), path], { stdio: ["ignore", "pipe", "inherit"] })
      yield* Effect.addFinalizer(() => Effect.sync(() => child.kill("SIGKILL")))
      const said = yield* Effect.promise(() => once(child.stdout, "data"))
      assert.strictEqual(String(said), "locked\n")
      assert.strictEqual(yield* attempt(acquire("shared", bytes(0, 1))), "RangeLocked")
      yield* acquire("exclusive", bytes(1, 1))
      const isHeld = FileLock.use((locks) => locks.isHeld(path, { mode: "shared", range: bytes(0, 1) }))
      assert.isTrue(yield* isHeld)
      const exited = once(child, "exit")
      child.kill("SIGKILL")
      yield* Effect.promise(() => exited)
      assert.isFalse(yield* isHeld)
      assert.strictEqual(yield* attempt(acquire("exclusive", bytes(0, 1))), "taken")
    }).pipe(Effect.provide(FileLock.layer)))

  it.effect("the SQLite of another process respects our lock on its bytes", () =>
    Effect.gen(function*() {
      const path = yield* lockFile
      const acquire = yield* locksOf(path)
      const write = Effect.callback<string>((resume) => {
        execFile(process.execPath, ["--no-warnings", program("sqliteWrite.ts"), path], (error, output) => {
          resume(error === null ? Effect.succeed(output.trim()) : Effect.die(error))
        })
      })
      assert.strictEqual(yield* write, "0")
      const busy = "5"
      // All that readers hold a shared lock on; and the byte that every one of them passes first.
      for (const range of [bytes(0x40000002, 510), bytes(0x40000000, 1)]) {
        assert.strictEqual(yield* Effect.scoped(Effect.andThen(acquire("exclusive", range), write)), busy)
        assert.strictEqual(yield* write, "0")
      }
    }).pipe(Effect.provide(FileLock.layer)))
})

describe("FileLock without native access", () => {
  it.effect("every acquisition is refused, with the reason, and no file is made", () =>
    Effect.gen(function*() {
      const path = yield* lockFile
      const acquire = yield* locksOf(path)
      const error = yield* Effect.flip(acquire("shared", bytes(0, 1)))
      assert.deepInclude(error, { _tag: "FileLockUnavailable", path })
      assert.match(error.message, /no kernel lock .* native access/)
      const question = FileLock.use((locks) => locks.isHeld(path, { mode: "shared", range: bytes(0, 1) }))
      assert.deepInclude(yield* Effect.flip(question), { _tag: "FileLockUnavailable", path })
      assert.isFalse(NodeFs.existsSync(path))
    }).pipe(Effect.provide(FileLock.layerBackends([]))))
})
