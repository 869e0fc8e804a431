import { assert, describe, it } from "@effect/vitest"
import { FileLock, RangeLocked } from "@tidemark/platform/FileLock"
import { type FaultPlan, MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { ProcessLiveness } from "@tidemark/platform/ProcessLiveness"
import { Vfs } from "@tidemark/platform/Vfs"
import { VfsError } from "@tidemark/platform/VfsError"
import { Context, Effect, Exit, Fiber, Layer, Scope } from "effect"

const filled = (length: number, value: number) => new Uint8Array(length).fill(value)
const readWrite = { access: "readWrite", create: "ifMissing" } as const

/** A process on the disk, until the scope closes. */
const mount = (disk: MemoryDisk) =>
  Effect.map(Layer.build(MemoryVfs.layerDisk(disk)), (context) => ({
    vfs: Context.get(context, Vfs),
    locks: Context.get(context, FileLock),
    liveness: Context.get(context, ProcessLiveness)
  }))

const codeOf = <A, R>(call: Effect.Effect<A, VfsError, R>) =>
  Effect.match(call, { onFailure: (error) => error.code, onSuccess: () => "none" })

describe("faults", () => {
  const opened = (plan: FaultPlan, options: { readonly capacityBytes?: number } = {}) =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make(options)
      const { vfs } = yield* mount(disk)
      const file = yield* vfs.open("/log/a", readWrite).pipe(
        Effect.catch(() => Effect.andThen(vfs.makeDirectory("/log"), vfs.open("/log/a", readWrite)))
      )
      yield* vfs.syncDirectory("/")
      yield* vfs.syncDirectory("/log")
      return { disk, vfs, file, fault: disk.inject(plan) }
    })

  it.effect("the k-th operation of a kind on a path fails, and does nothing", () =>
    Effect.gen(function*() {
      const plan: FaultPlan = { operation: "write", path: "/log/a", skip: 2, fault: { kind: "error", code: "EIO" } }
      const { disk, fault, file, vfs } = yield* opened(plan)
      const other = yield* vfs.open("/log/b", readWrite)
      const codes: Array<string> = []
      for (let index = 0; index < 4; index++) {
        codes.push(
          yield* codeOf(file.write([filled(1, index + 1)], index)),
          yield* codeOf(other.write([filled(1, 1)], 0))
        )
      }
      assert.deepStrictEqual(codes, ["none", "none", "none", "none", "EIO", "none", "none", "none"])
      assert.deepStrictEqual(disk.readFile("/log/a"), new Uint8Array([1, 2, 0, 4]))
      assert.strictEqual(fault.hits, 1)
    }))

  it.effect("paths are matched by name, pattern or predicate, operations by list or \"any\", until it is removed", () =>
    Effect.gen(function*() {
      for (const path of ["log/a", /\/a$/g, (path: string) => path.startsWith("/log")]) {
        const fault = { kind: "error", code: "EACCES" } as const
        const { file, fault: handle, vfs } = yield* opened({
          operation: ["size", "identify", "open"],
          path,
          times: Infinity,
          fault
        })
        const call = { size: file.size, identify: vfs.identify("/log/a"), open: vfs.open("/log/a", readWrite) }
        for (let round = 0; round < 2; round++) {
          assert.strictEqual(yield* codeOf(call.size), "EACCES")
          assert.strictEqual(yield* codeOf(call.identify), "EACCES")
          assert.strictEqual(yield* codeOf(call.open), "EACCES")
          assert.strictEqual(yield* codeOf(vfs.identify("/other")), "none")
          assert.strictEqual(yield* codeOf(file.syncData), "none")
        }
        assert.strictEqual(handle.hits, 6)
        handle.remove()
        assert.strictEqual(yield* codeOf(call.size), "none")
      }
      const { file, vfs } = yield* opened({
        operation: "any",
        times: Infinity,
        fault: { kind: "error", code: "EROFS" }
      })
      const calls = [
        file.read(filled(1, 0), 0),
        file.write([filled(1, 0)], 0),
        file.writeAndSyncData([filled(1, 0)], 0),
        file.syncData,
        file.syncFull,
        file.truncate(0),
        file.size,
        vfs.open("/log/a", readWrite),
        vfs.remove("/log/a"),
        vfs.rename("/log/a", "/log/b"),
        vfs.list("/log"),
        vfs.makeDirectory("/d"),
        vfs.syncDirectory("/log"),
        vfs.identify("/log/a")
      ]
      for (const call of calls) assert.strictEqual(yield* codeOf(call), "EROFS")
      assert.throws(() => file.readSync(filled(1, 0), 0), VfsError, "EROFS")
    }))

  it.effect("a short write leaves a part, with an error", () =>
    Effect.gen(function*() {
      const { disk, file } = yield* opened({ operation: "write", fault: { kind: "shortWrite", bytes: 3 } })
      assert.strictEqual(yield* codeOf(file.write([filled(2, 1), filled(2, 2)], 0)), "ENOSPC")
      assert.deepStrictEqual(disk.readFile("/log/a"), new Uint8Array([1, 1, 2]))
    }))

  it.effect("a full disk takes what fits, and goes on when there is room", () =>
    Effect.gen(function*() {
      const { disk, file, vfs } = yield* opened(
        { operation: "write", skip: Infinity, fault: { kind: "error", code: "EIO" } },
        { capacityBytes: 100 }
      )
      const other = yield* vfs.open("/other", readWrite)
      yield* other.write([filled(60, 1)], 0)
      assert.strictEqual(yield* codeOf(file.write([filled(41, 2)], 0)), "ENOSPC")
      assert.deepStrictEqual(disk.readFile("/log/a"), filled(40, 2))
      assert.strictEqual(yield* codeOf(file.write([filled(40, 3)], 0)), "none")
      assert.strictEqual(yield* codeOf(file.write([filled(1, 3)], 50)), "ENOSPC")
      assert.strictEqual(yield* codeOf(file.truncate(41)), "ENOSPC")
      assert.strictEqual(disk.readFile("/log/a")?.length, 40)
      yield* other.truncate(10)
      assert.strictEqual(yield* codeOf(file.write([filled(90, 4)], 0)), "none")
      disk.capacityBytes = 200
      assert.strictEqual(yield* codeOf(file.write([filled(190, 5)], 0)), "none")
      assert.strictEqual(disk.afterCrash("lost").capacityBytes, 200)
    }))

  it.effect("a bit is flipped in the reads that cover it", () =>
    Effect.gen(function*() {
      const { disk, fault, file } = yield* opened({
        operation: "read",
        times: 2,
        fault: { kind: "flippedBit", position: 5, bit: 7 }
      })
      yield* file.write([filled(10, 1)], 0)
      const buffer = filled(3, 0)
      yield* file.read(buffer, 0)
      assert.deepStrictEqual(buffer, filled(3, 1))
      yield* file.read(buffer, 4)
      assert.deepStrictEqual(buffer, new Uint8Array([1, 129, 1]))
      file.readSync(buffer, 5)
      assert.deepStrictEqual(buffer, new Uint8Array([129, 1, 1]))
      file.readSync(buffer, 5)
      assert.deepStrictEqual(buffer, filled(3, 1))
      assert.strictEqual(fault.hits, 2)
      assert.deepStrictEqual(disk.readFile("/log/a"), filled(10, 1))
    }))

  it.effect("a failed sync leaves it open what is on the disk", () =>
    Effect.gen(function*() {
      const { disk, file } = yield* opened({ operation: "syncData", fault: { kind: "error", code: "EIO" } })
      assert.strictEqual(yield* codeOf(file.writeAndSyncData([filled(3, 1)], 0)), "EIO")
      assert.deepStrictEqual(disk.afterCrash("lost").readFile("/log/a"), filled(0, 0))
      assert.deepStrictEqual(disk.afterCrash("kept").readFile("/log/a"), filled(3, 1))
    }))

  it.effect("a failed sync that marked the pages clean: no later sync brings them to the disk", () =>
    Effect.gen(function*() {
      for (const operation of ["syncData", "syncFull"] as const) {
        const { disk, file } = yield* opened({ operation, fault: { kind: "lostSync" } })
        yield* file.write([filled(1000, 1)], 0)
        assert.strictEqual(yield* codeOf(file[operation]), "EIO")
        yield* file.write([filled(500, 2)], 750)
        yield* file.syncFull
        yield* file.syncData
        const seen = filled(1250, 0)
        yield* file.read(seen, 0)
        assert.deepStrictEqual(seen.subarray(0, 750), filled(750, 1))
        for (const choices of ["lost", "kept", 1, 2, 3] as const) {
          const found = disk.afterCrash(choices).readFile("/log/a")
          assert.deepStrictEqual(found, new Uint8Array([...filled(750, 0), ...filled(500, 2)]))
        }
        assert.deepStrictEqual(disk.unsynced, ["/log/a: a failed sync lost writes that can still be read"])
      }
    }))
})

describe("holds", () => {
  it.effect("an operation waits before it does anything, and the world can be looked at meanwhile", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { vfs } = yield* mount(disk)
      const file = yield* vfs.open("/a", readWrite)
      yield* vfs.syncDirectory("/")
      const hold = disk.hold({ operation: "syncData", path: "/a", skip: 1 })
      yield* file.writeAndSyncData([filled(1, 1)], 0)
      const fiber = yield* Effect.forkChild(file.writeAndSyncData([filled(1, 2)], 0))
      yield* hold.reached
      assert.isUndefined(fiber.pollUnsafe())
      assert.deepStrictEqual(disk.readFile("/a"), filled(1, 2))
      assert.deepStrictEqual(disk.afterCrash("lost").readFile("/a"), filled(1, 1))
      yield* hold.release
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(disk.afterCrash("lost").readFile("/a"), filled(1, 2))
    }))

  it.effect("an operation waits when it is done, before its caller knows", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make({ async: false })
      const { vfs } = yield* mount(disk)
      const file = yield* vfs.open("/a", readWrite)
      const hold = disk.hold({ operation: "write", when: "after" })
      const fiber = yield* Effect.forkChild(file.write([filled(1, 1)], 0), { startImmediately: true })
      yield* hold.reached
      assert.deepStrictEqual(disk.readFile("/a"), filled(1, 1))
      assert.isUndefined(fiber.pollUnsafe())
      yield* hold.release
      yield* Fiber.join(fiber)
    }))

  it.effect("a sync persists what was written before its call, not what was written while it ran", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const { vfs } = yield* mount(disk)
      const file = yield* vfs.open("/a", readWrite)
      yield* vfs.syncDirectory("/")
      const inDirectory = disk.hold({ operation: "syncDirectory" })
      const inFile = disk.hold({ operation: "syncFull" })
      yield* file.write([filled(10, 1)], 0)
      const syncing = yield* Effect.forkChild(Effect.all([file.syncFull, vfs.syncDirectory("/")], {
        concurrency: "unbounded"
      }))
      yield* Effect.andThen(inDirectory.reached, inFile.reached)
      yield* file.write([filled(10, 2)], 5)
      yield* vfs.open("/b", readWrite)
      yield* Effect.andThen(inDirectory.release, inFile.release)
      yield* Fiber.join(syncing)
      const crashed = disk.afterCrash("lost")
      assert.deepStrictEqual(crashed.readFile("/a"), filled(10, 1))
      assert.deepStrictEqual(crashed.files, ["/a"])
      assert.deepStrictEqual(disk.afterCrash("kept").readFile("/a")?.length, 15)
      assert.deepStrictEqual(disk.afterCrash("kept").files, ["/a", "/b"])
    }))

  it.effect("a held operation cannot be interrupted, but fails when its process dies", () =>
    Effect.gen(function*() {
      for (const when of ["before", "after"] as const) {
        const disk = MemoryDisk.make()
        const { vfs } = yield* mount(disk)
        const file = yield* vfs.open("/a", readWrite)
        const first = disk.hold({ operation: "size", when })
        const told = yield* Effect.forkChild(codeOf(file.size))
        yield* first.reached
        const hold = disk.hold({ operation: "write", when })
        const fiber = yield* Effect.forkChild(codeOf(file.write([filled(1, 1)], 0)))
        yield* hold.reached
        const interrupting = yield* Effect.forkChild(Fiber.interrupt(fiber), { startImmediately: true })
        yield* Effect.yieldNow
        assert.isUndefined(fiber.pollUnsafe())
        disk.kill()
        yield* Fiber.join(interrupting)
        assert.strictEqual(yield* Fiber.join(told), "EIO")
        assert.deepStrictEqual(disk.readFile("/a"), filled(when === "before" ? 0 : 1, 1))
      }
    }))
})

describe("processes", () => {
  it.effect("a killed process loses no write, but its locks, and touches nothing any more", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const first = yield* mount(disk)
      const second = yield* mount(disk)
      const range = { start: 0, length: 10 }
      const file = yield* first.vfs.open("/a", readWrite)
      const other = yield* second.vfs.open("/a", readWrite)
      yield* file.write([filled(3, 1)], 0)
      yield* first.locks.acquire("/a", { range, mode: "exclusive" })
      assert.instanceOf(
        yield* Effect.flip(second.locks.acquire("/a", { range, mode: "shared" })),
        RangeLocked
      )
      assert.isTrue(yield* second.liveness.isAlive(first.liveness.self))
      disk.kill(first.liveness.self)
      assert.isFalse(yield* second.liveness.isAlive(first.liveness.self))
      assert.isTrue(yield* second.liveness.isAlive(second.liveness.self))
      assert.isFalse(yield* second.liveness.isAlive({ pid: 0, birth: 0n }))
      assert.isFalse(yield* second.liveness.isAlive({ pid: second.liveness.self.pid, birth: 99n }))
      yield* second.locks.acquire("/a", { range, mode: "exclusive" })
      const calls = [
        file.read(filled(1, 0), 0),
        file.write([filled(3, 2)], 0),
        file.writeAndSyncData([filled(3, 2)], 0),
        file.syncData,
        file.syncFull,
        file.truncate(0),
        file.size,
        first.vfs.open("/b", readWrite),
        first.vfs.remove("/a"),
        first.vfs.rename("/a", "/b"),
        first.vfs.list("/"),
        first.vfs.makeDirectory("/d"),
        first.vfs.syncDirectory("/"),
        first.vfs.identify("/a")
      ]
      for (const call of calls) assert.strictEqual(yield* codeOf(call), "EIO")
      assert.throws(() => file.readSync(filled(1, 0), 0), VfsError, "EIO")
      assert.deepStrictEqual(disk.readFile("/a"), filled(3, 1))
      assert.deepStrictEqual(disk.unsynced, [
        "/a: write of 3 bytes at 0 is dirty",
        "/a: create is not synced"
      ])
      yield* other.writeAndSyncData([filled(1, 9)], 3)
      assert.deepStrictEqual(disk.readFile("/a"), new Uint8Array([1, 1, 1, 9]))
    }))

  it.effect("after a power loss no process of before reaches the disk, and no lock is held", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      disk.writeFile("/a", filled(3, 1))
      const before = yield* mount(disk)
      const range = { start: 0, length: 1 }
      const file = yield* before.vfs.open("/a", readWrite)
      yield* before.locks.acquire("/a", { range, mode: "exclusive" })
      const inFlight = disk.hold({ operation: "write" })
      const fiber = yield* Effect.forkChild(codeOf(file.write([filled(3, 2)], 0)))
      yield* inFlight.reached
      disk.crash("kept")
      assert.strictEqual(yield* Fiber.join(fiber), "EIO")
      assert.strictEqual(yield* codeOf(file.write([filled(3, 2)], 0)), "EIO")
      assert.strictEqual(yield* codeOf(before.vfs.remove("/a")), "EIO")
      const after = yield* mount(disk)
      assert.isFalse(yield* after.liveness.isAlive(before.liveness.self))
      yield* after.locks.acquire("/a", { range, mode: "exclusive" })
      assert.deepStrictEqual(disk.readFile("/a"), filled(3, 1))
    }))

  it.effect("a process that ends gives back its locks and is dead; identities do not repeat", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const scope = yield* Scope.make()
      const first = yield* Scope.provide(mount(disk), scope)
      const second = yield* mount(disk)
      assert.isTrue(yield* second.liveness.isAlive(first.liveness.self))
      yield* Scope.close(scope, Exit.void)
      assert.isFalse(yield* second.liveness.isAlive(first.liveness.self))
      const third = yield* mount(disk)
      const identities = [first, second, third].map(({ liveness }) => `${liveness.self.pid} ${liveness.self.birth}`)
      assert.strictEqual(new Set(identities).size, 3)
    }))
})

describe("order", () => {
  const stepsOf = (options: ConstructorOptions) =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make(options)
      const { vfs } = yield* mount(disk)
      const trace = disk.record()
      yield* Effect.forEach(["/a", "/b", "/c"], (path) =>
        Effect.gen(function*() {
          const file = yield* vfs.open(path, readWrite)
          yield* file.write([filled(1, 1)], 0)
          yield* file.syncData
        }), { concurrency: "unbounded", discard: true })
      return trace.steps.map((step) => `${step.kind} ${step.path}`).join()
    })
  type ConstructorOptions = Parameters<typeof MemoryDisk.make>[0]

  it.effect("operations let others come in between, unless they are told not to", () =>
    Effect.gen(function*() {
      const files = ["/a", "/b", "/c"]
      assert.strictEqual(
        yield* stepsOf({}),
        ["create", "write", "syncData"].flatMap((kind) => files.map((path) => `${kind} ${path}`)).join()
      )
      assert.strictEqual(
        yield* stepsOf({ async: false }),
        files.flatMap((path) => ["create", "write", "syncData"].map((kind) => `${kind} ${path}`)).join()
      )
    }))

  it.effect("a seed lets them overtake each other, in the same way each time", () =>
    Effect.gen(function*() {
      const seen = new Set<string>()
      for (let seed = 0; seed < 10; seed++) {
        const steps = yield* stepsOf({ async: { seed, maxTurns: 5 } })
        assert.strictEqual(yield* stepsOf({ async: { seed, maxTurns: 5 } }), steps)
        seen.add(steps)
      }
      assert.isAbove(seen.size, 5)
    }))
})

describe("writes in the background", () => {
  for (const operation of ["write", "syncData"] as const) {
    it.live(`those behind one whose ${operation} fails fail with ECANCELED, and have written nothing`, () => {
      const disk = MemoryDisk.make({ async: { seed: 3, maxTurns: 3 } })
      return Effect.gen(function*() {
        const vfs = yield* Vfs
        const file = yield* vfs.open("/a", { access: "readWrite", create: "exclusive" })
        const background = { background: true, tail: true }
        disk.inject({ operation, skip: 2, fault: { kind: "error", code: "EIO" } })
        const fibers = yield* Effect.forEach(
          [1, 2, 3, 4, 5],
          (value) =>
            Effect.forkChild(
              Effect.match(file.writeAndSyncData([Uint8Array.of(value)], value - 1, background), {
                onFailure: ({ code }) => code,
                onSuccess: () => "done"
              }),
              { startImmediately: true }
            )
        )
        assert.deepStrictEqual(yield* Fiber.joinAll(fibers), ["done", "done", "EIO", "ECANCELED", "ECANCELED"])
        assert.strictEqual(yield* file.size, operation === "write" ? 2 : 3)
        // Nobody is left in line.
        yield* file.writeAndSyncData([Uint8Array.of(9)], 3, background)
      }).pipe(Effect.scoped, Effect.provide(MemoryVfs.layerDisk(disk)))
    })
  }
})
