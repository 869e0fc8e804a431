/** What a power loss and a failure leave of capsules that are put and synced (CO-10, RC-15, RC-16). */
import { assert, describe, it } from "@effect/vitest"
import { type CrashSelection, MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import { Effect, Exit, Fiber, Result, Scope } from "effect"
import { isAnyTemporaryName, nameOf } from "../src/AtomicFile.ts"
import { capsulePath, capsulesDirectory, type EncodedCapsule } from "../src/CapsuleFormat.ts"
import { listCapsules, makeCapsuleStore, readCapsule } from "../src/CapsuleStore.ts"
import { capsuleOf } from "./support/capsules.ts"

const database = "/data/app.db"

const newDisk = (options?: Parameters<typeof MemoryDisk.make>[0]) => {
  const disk = MemoryDisk.make({ async: false, ...options })
  disk.writeFile(database, new Uint8Array(512))
  return disk
}

const on = <A, E>(disk: MemoryDisk, use: (vfs: Vfs["Service"]) => Effect.Effect<A, E, Scope.Scope>) =>
  Effect.scoped(Effect.flatMap(Vfs, use)).pipe(Effect.provide(MemoryVfs.layerDisk(disk)))

const storeOn = Effect.fnUntraced(function*(vfs: Vfs["Service"], maxKeptFiles?: number) {
  return yield* makeCapsuleStore(vfs, { database, maxKeptFiles })
})

/** What stands under the name of a capsule: nothing, all of it, or something that reading refuses. Never another one. */
const found = (disk: MemoryDisk, { bytes, id }: EncodedCapsule) =>
  on(disk, (vfs) =>
    Effect.gen(function*() {
      const path = capsulePath(database, id)
      if (disk.readFile(path) === undefined) return "nothing"
      const read = yield* Effect.result(readCapsule(vfs, database, id))
      if (Result.isFailure(read)) return "refused"
      assert.deepStrictEqual(disk.readFile(path), bytes)
      return "whole"
    }))

const [one, two, three] = [capsuleOf(1n, [1]), capsuleOf(2n, [2, 3]), capsuleOf(3n, [3, 4, 5])] as const
const ids = (...capsules: ReadonlyArray<EncodedCapsule>) => capsules.map(({ id }) => id)
const pathOf = ({ id }: EncodedCapsule) => capsulePath(database, id)

describe("CapsuleStore, crashing", () => {
  for (const [how, kept] of [["through the same descriptor", 64], ["through another descriptor", 0]] as const) {
    it.effect(`CO-10 what was synced is there after a power loss at any moment, name and all, ${how}`, () =>
      Effect.gen(function*() {
        const seen = new Map<string, number>()
        let synced = 0
        for (const seed of [1, 2, 3, 4]) {
          // Operations overtake each other, so that the syncs of a batch end in any order.
          const disk = newDisk({ async: { seed, maxTurns: 2 } })
          const trace = disk.record<EncodedCapsule>()
          yield* on(disk, (vfs) =>
            Effect.gen(function*() {
              const store = yield* storeOn(vfs, kept)
              yield* store.put(one)
              yield* store.sync([one.id])
              trace.mark(one)
              yield* Effect.all([store.put(two), store.put(three)], { concurrency: "unbounded" })
              yield* store.sync(ids(two, three))
              trace.mark(two)
              trace.mark(three)
            }))
          trace.stop()
          assert.deepStrictEqual(disk.unsynced, [])
          for (const state of trace.crashStates({ seed, exhaustiveUpTo: 8, perStep: 8 })) {
            for (const capsule of [one, two, three]) {
              const what = yield* found(state.disk, capsule)
              seen.set(what, (seen.get(what) ?? 0) + 1)
              if (!state.marks.includes(capsule)) continue
              synced++
              assert.strictEqual(what, "whole", `seed ${seed}, ${state.label}`)
            }
          }
        }
        assert.isAbove(synced, 200)
        for (const what of ["nothing", "refused", "whole"]) assert.isAbove(seen.get(what) ?? 0, 20, what)
      }))
  }

  it.effect("CO-09 a capsule that another process has put, and directories that it has made, are made durable", () =>
    Effect.gen(function*() {
      const disk = newDisk()
      yield* on(disk, (client) => Effect.flatMap(storeOn(client), (store) => store.put(one)))
      yield* on(disk, (vfs) => Effect.flatMap(storeOn(vfs), (store) => store.sync([one.id])))
      assert.deepStrictEqual(disk.unsynced, [])
      assert.strictEqual(yield* found(disk.afterCrash("lost"), one), "whole")
    }))

  it.effect("CO-09 the directories on the way are synced once, the capsules' own with every batch", () =>
    Effect.gen(function*() {
      const disk = newDisk()
      const trace = disk.record()
      yield* on(disk, (vfs) =>
        Effect.gen(function*() {
          const store = yield* storeOn(vfs)
          yield* Effect.forEach([one, two], store.put)
          yield* store.sync(ids(one, two))
          yield* store.put(three)
          yield* store.sync([three.id])
        }))
      trace.stop()
      const steps = trace.steps.flatMap(({ kind, path }) => kind.startsWith("sync") ? [[kind, path]] : [])
      assert.deepStrictEqual(steps, [
        ["syncData", pathOf(one)],
        ["syncData", pathOf(two)],
        ["syncDirectory", "/data"],
        ["syncDirectory", "/data/app.db.fsqlite"],
        ["syncDirectory", capsulesDirectory(database)],
        ["syncData", pathOf(three)],
        ["syncDirectory", capsulesDirectory(database)]
      ])
      assert.strictEqual(trace.steps.filter(({ kind }) => kind === "makeDirectory").length, 2)
    }))

  it.effect("RC-16 before its sync a power loss may take a capsule or a part of it, and a kill takes nothing", () =>
    Effect.gen(function*() {
      const disk = newDisk()
      yield* on(disk, (vfs) => Effect.flatMap(storeOn(vfs), (store) => store.put(two)))
      const after = (choices: CrashSelection | "kept" | "lost") => found(disk.afterCrash(choices), two)
      assert.strictEqual(yield* after("lost"), "nothing")
      assert.strictEqual(yield* after("kept"), "whole")
      assert.strictEqual(yield* after({ names: "kept", sizes: "kept", contents: "lost" }), "refused")
      assert.strictEqual(yield* after({ names: "kept", sizes: "lost", contents: "kept" }), "refused")
      const hasLastBlock = ({ position }: { readonly position: number }) => position >= 512
      assert.strictEqual(yield* after({ names: "kept", sizes: "kept", contents: hasLastBlock }), "refused")
      disk.kill()
      assert.strictEqual(yield* found(disk, two), "whole")
    }))

  it.effect("CO-10 putting a durable capsule again loses it at no moment, not even when that fails", () =>
    Effect.gen(function*() {
      const shortWrite = { kind: "shortWrite", bytes: 700 } as const
      for (const fault of [undefined, shortWrite, { kind: "error", code: "EIO" } as const]) {
        const disk = newDisk()
        yield* on(disk, (vfs) =>
          Effect.gen(function*() {
            const store = yield* storeOn(vfs)
            yield* store.put(three)
            yield* store.sync([three.id])
            const trace = disk.record()
            if (fault !== undefined) disk.inject({ operation: "write", fault })
            const again = yield* Effect.result(store.put(three))
            assert.strictEqual(Result.isFailure(again), fault !== undefined)
            trace.stop()
            for (const state of trace.crashStates()) {
              assert.strictEqual(yield* found(state.disk, three), "whole", state.label)
            }
          }))
        assert.strictEqual(yield* found(disk, three), "whole")
      }
    }))

  it.effect("CO-10 PG-06 a recycled file: what was synced is whole at every moment, whoever gets it next", () =>
    Effect.gen(function*() {
      const [first, other, second, third] = [
        capsuleOf(11n, [1]),
        capsuleOf(12n, [1]),
        capsuleOf(13n, [1]),
        capsuleOf(14n, [1])
      ] as const
      let synced = 0
      let mixed = 0
      for (const seed of [1, 2, 3, 4]) {
        const disk = newDisk({ async: { seed, maxTurns: 2 } })
        const trace = disk.record<EncodedCapsule>()
        yield* on(disk, (vfs) =>
          Effect.gen(function*() {
            const store = yield* storeOn(vfs)
            yield* Effect.all([store.put(first), store.put(other)], { concurrency: "unbounded" })
            yield* store.sync(ids(first, other))
            trace.mark(other)
            yield* store.recycle(first.id, first.bytes.length)
            yield* store.put(second)
            yield* store.sync([second.id])
            trace.mark(second)
            // Durable already, and a spare is there for it: it is not put into that.
            yield* store.put(first)
            yield* store.recycle(first.id, first.bytes.length)
            yield* Effect.all([store.put(second), store.put(third)], { concurrency: "unbounded" })
            yield* store.sync(ids(second, third))
            trace.mark(third)
          }))
        trace.stop()
        for (const state of trace.crashStates({ seed, exhaustiveUpTo: 8, perStep: 8 })) {
          for (const capsule of [other, second, third]) {
            const what = yield* found(state.disk, capsule)
            if (what === "refused") mixed++
            if (!state.marks.includes(capsule)) continue
            synced++
            assert.strictEqual(what, "whole", `seed ${seed}, ${state.label}`)
          }
        }
      }
      assert.isAbove(synced, 200)
      assert.isAbove(mixed, 20)
    }))

  it.effect("CO-10 the capsule that a spare once was is put while its file gets another name: both are whole", () =>
    Effect.gen(function*() {
      const [old, next] = [capsuleOf(21n, [1]), capsuleOf(22n, [1])] as const
      for (const operation of ["identify", "rename"] as const) {
        const disk = newDisk()
        yield* on(disk, (vfs) =>
          Effect.gen(function*() {
            const store = yield* storeOn(vfs)
            yield* store.put(old)
            yield* store.recycle(old.id, old.bytes.length)
            const hold = disk.hold({ operation })
            const putting = yield* Effect.forkChild(store.put(next))
            yield* hold.reached
            const again = yield* Effect.forkChild(store.put(old))
            for (let turn = 0; turn < 20; turn++) yield* Effect.yieldNow
            yield* hold.release
            yield* Effect.all([Fiber.join(putting), Fiber.join(again)])
            yield* store.sync(ids(old, next))
          }))
        for (const capsule of [old, next]) {
          assert.strictEqual(yield* found(disk.afterCrash("lost"), capsule), "whole", operation)
        }
      }
    }))

  it.effect("CO-10 spares are removed while one of them is about to be put again: that one stays", () =>
    Effect.gen(function*() {
      const old = capsuleOf(21n, [1])
      // As many as are put at a time: the next one has its turn, and waits.
      const others = Array.from({ length: 16 }, (_, index) => capsuleOf(BigInt(30 + index), [1, 2]))
      const disk = newDisk()
      yield* on(disk, (vfs) =>
        Effect.gen(function*() {
          const store = yield* storeOn(vfs)
          yield* store.put(old)
          yield* store.recycle(old.id, old.bytes.length)
          const holds = others.map((capsule) => disk.hold({ operation: "open", path: pathOf(capsule) }))
          const putting = yield* Effect.forEach(others, (capsule) => Effect.forkChild(store.put(capsule)))
          for (const { reached } of holds) yield* reached
          const again = yield* Effect.forkChild(store.put(old), { startImmediately: true })
          const removing = yield* Effect.forkChild(store.removeSpares, { startImmediately: true })
          for (const { release } of holds) yield* release
          yield* Effect.forEach([...putting, again, removing], Fiber.join)
          yield* store.sync([old.id])
        }))
      assert.strictEqual(yield* found(disk.afterCrash("lost"), old), "whole")
    }))

  it.effect("CO-10 a spare that is gone, or cannot be renamed, costs nothing but the spare", () =>
    Effect.gen(function*() {
      const [old, next] = [capsuleOf(21n, [1]), capsuleOf(22n, [1])] as const
      for (const operation of ["identify", "rename"] as const) {
        const disk = newDisk()
        yield* on(disk, (vfs) =>
          Effect.gen(function*() {
            const store = yield* storeOn(vfs)
            yield* store.put(old)
            yield* store.recycle(old.id, old.bytes.length)
            const fault = disk.inject({ operation, fault: { kind: "error", code: "EIO" } })
            yield* store.put(next)
            yield* store.sync([next.id])
            assert.strictEqual(fault.hits, 1)
          }))
        assert.strictEqual(yield* found(disk.afterCrash("lost"), next), "whole", operation)
        assert.deepStrictEqual(disk.files, [database, pathOf(next)])
      }
    }))

  it.effect("RC-16 a spare that got its new name and cannot be opened: nothing is under the name, and it is put again", () =>
    Effect.gen(function*() {
      const [old, next] = [capsuleOf(21n, [1]), capsuleOf(22n, [1])] as const
      const disk = newDisk()
      yield* on(disk, (vfs) =>
        Effect.gen(function*() {
          const store = yield* storeOn(vfs)
          yield* store.put(old)
          yield* store.recycle(old.id, old.bytes.length)
          disk.inject({ operation: "open", path: pathOf(next), fault: { kind: "error", code: "EMFILE" } })
          assert.strictEqual((yield* Effect.flip(store.put(next))).code, "EMFILE")
          assert.deepStrictEqual(disk.files, [database])
          yield* store.put(next)
          yield* store.sync([next.id])
        }))
      assert.strictEqual(yield* found(disk.afterCrash("lost"), next), "whole")
    }))

  it.effect("CO-10 a capsule that is synced is no spare any more, whoever wants a file while it is", () =>
    Effect.gen(function*() {
      const [old, next] = [capsuleOf(21n, [1]), capsuleOf(22n, [1])] as const
      for (const when of ["before", "after"] as const) {
        const disk = newDisk()
        yield* on(disk, (vfs) =>
          Effect.gen(function*() {
            const store = yield* storeOn(vfs)
            yield* store.put(old)
            yield* store.recycle(old.id, old.bytes.length)
            const held = disk.hold({ operation: "syncData", when })
            const syncing = yield* Effect.forkChild(store.sync([old.id]))
            yield* held.reached
            yield* store.put(next)
            yield* held.release
            yield* Fiber.join(syncing)
            yield* store.removeSpares
          }))
        assert.strictEqual(yield* found(disk.afterCrash("lost"), old), "whole", when)
      }
    }))

  it.effect("CO-10 a file of another length than was said is no spare: what is put next is whole", () =>
    Effect.gen(function*() {
      const disk = newDisk()
      yield* on(disk, (vfs) =>
        Effect.gen(function*() {
          const store = yield* storeOn(vfs)
          // By another store, and by this one.
          yield* Effect.flatMap(storeOn(vfs), (other) => other.put(one))
          yield* store.put(three)
          yield* Effect.forEach([one, three], ({ id }) => store.recycle(id, two.bytes.length))
          assert.deepStrictEqual(disk.files, [database])
          yield* store.put(two)
          yield* store.sync([two.id])
        }))
      assert.strictEqual(yield* found(disk.afterCrash("lost"), two), "whole")
    }))

  it.effect("PG-06 spares make room for a capsule that finds none", () =>
    Effect.gen(function*() {
      const disk = newDisk()
      yield* on(disk, (vfs) =>
        Effect.gen(function*() {
          const store = yield* storeOn(vfs)
          yield* store.put(one)
          yield* store.recycle(one.id, one.bytes.length)
          disk.capacityBytes = 512 + three.bytes.length + 100
          yield* store.put(three)
          yield* store.sync([three.id])
          const error = yield* Effect.flip(store.put(two))
          assert.strictEqual(error.code, "ENOSPC")
        }))
      assert.deepStrictEqual(disk.files, [database, pathOf(three)])
      assert.strictEqual(yield* found(disk.afterCrash("lost"), three), "whole")
    }))

  it.effect("GC-08 a store that has failed, or was closed, keeps no file for another capsule", () =>
    Effect.gen(function*() {
      const disk = newDisk()
      yield* on(disk, (vfs) =>
        Effect.gen(function*() {
          const scope = yield* Scope.make()
          const closed = yield* Scope.provide(storeOn(vfs), scope)
          yield* closed.put(one)
          yield* Scope.close(scope, Exit.void)
          yield* closed.recycle(one.id, one.bytes.length)
          assert.deepStrictEqual(disk.files, [database])
          const failed = yield* storeOn(vfs)
          yield* Effect.forEach([one, two], failed.put)
          disk.inject({ operation: "syncData", path: pathOf(two), fault: { kind: "lostSync" } })
          yield* Effect.flip(failed.sync([two.id]))
          yield* failed.recycle(one.id, one.bytes.length)
          assert.deepStrictEqual(disk.files, [database, pathOf(two)])
        }))
    }))

  it.effect("RC-25 a file that is too long is replaced at once: a power loss leaves it, or the capsule, whole", () =>
    Effect.gen(function*() {
      const disk = newDisk()
      const garbage = new Uint8Array(3000).fill(7)
      disk.writeFile(pathOf(one), garbage)
      const trace = disk.record()
      yield* on(disk, (vfs) => Effect.flatMap(storeOn(vfs), (store) => store.put(one)))
      trace.stop()
      let replaced = 0
      for (const { disk: after, label } of trace.crashStates()) {
        const bytes = after.readFile(pathOf(one))
        if (bytes?.length !== garbage.length) replaced++
        assert.deepStrictEqual(bytes, bytes?.length === garbage.length ? garbage : one.bytes, label)
        for (const file of after.files) {
          if (file !== database && file !== pathOf(one)) assert.isTrue(isAnyTemporaryName(nameOf(file)), file)
        }
        assert.deepStrictEqual(yield* on(after, (vfs) => listCapsules(vfs, database)), [one.id])
      }
      assert.isAbove(replaced, 0)
      assert.deepStrictEqual(disk.files, [database, pathOf(one)])
    }))
})

describe("CapsuleStore, failing", () => {
  for (const operation of ["makeDirectory", "open", "write"] as const) {
    it.effect(`RC-16 when ${operation} fails nothing is under the name, and the next put writes it whole`, () =>
      Effect.gen(function*() {
        const disk = newDisk()
        yield* on(disk, (vfs) =>
          Effect.gen(function*() {
            const store = yield* storeOn(vfs)
            const code = operation === "open" ? "EMFILE" : "ENOSPC"
            disk.inject({ operation, fault: { kind: "error", code } })
            const error = yield* Effect.flip(store.put(one))
            assert.deepStrictEqual([error.operation, error.code], [operation, code])
            assert.deepStrictEqual(disk.files, [database])
            assert.strictEqual((yield* Effect.flip(store.sync([one.id]))).code, "ENOENT")
            yield* store.put(one)
            yield* store.sync([one.id])
          }))
        assert.strictEqual(yield* found(disk.afterCrash("lost"), one), "whole")
      }))
  }

  it.effect("RC-16 a full disk: what was begun is removed, and with room again the same capsule is put", () =>
    Effect.gen(function*() {
      const disk = newDisk()
      yield* on(disk, (vfs) =>
        Effect.gen(function*() {
          const store = yield* storeOn(vfs)
          yield* store.put(one)
          disk.capacityBytes = 512 + one.bytes.length + 1000
          const error = yield* Effect.flip(store.put(two))
          assert.deepStrictEqual([error.operation, error.code], ["write", "ENOSPC"])
          assert.deepStrictEqual(disk.files, [database, pathOf(one)])
          yield* store.sync([one.id])
          disk.capacityBytes = 100_000
          yield* store.put(two)
          yield* store.sync([two.id])
        }))
      assert.strictEqual(yield* found(disk.afterCrash("lost"), two), "whole")
    }))

  const syncFaults = [
    ["syncData", { kind: "lostSync", code: "EIO" }],
    ["syncData", { kind: "error", code: "EIO" }],
    ["syncDirectory", { kind: "error", code: "EIO" }],
    ["syncDirectory", { kind: "error", code: "ENOSPC" }]
  ] as const
  for (const [operation, fault] of syncFaults) {
    for (const skip of operation === "syncData" ? [0, 1] : [0, 1, 2]) {
      const title = `CO-10 after a failed ${operation} (${fault.kind} ${fault.code}, number ${
        skip + 1
      }) no file is touched any more`
      it.effect(title, () =>
        Effect.gen(function*() {
          const disk = newDisk()
          yield* on(disk, (vfs) =>
            Effect.gen(function*() {
              const store = yield* storeOn(vfs)
              yield* Effect.forEach([one, two], store.put)
              disk.inject({ operation, fault, skip })
              const first = yield* Effect.flip(store.sync(ids(one, two)))
              assert.strictEqual(first.operation, operation)
              const trace = disk.record()
              const later = [
                yield* Effect.flip(store.sync(ids(one, two))),
                yield* Effect.flip(store.sync([one.id])),
                yield* Effect.flip(store.sync([])),
                yield* Effect.flip(store.put(three)),
                yield* Effect.flip(store.put(one))
              ]
              trace.stop()
              assert.deepStrictEqual(trace.steps, [])
              for (const error of later) assert.strictEqual(error, first)
              // What only looks, or takes away, goes on.
              assert.strictEqual((yield* store.read(one.id)).digest.length, 32)
              assert.strictEqual((yield* store.list).length, 2)
              yield* store.remove(one.id)
              assert.deepStrictEqual(yield* store.list, [two.id])
            }))
        }))
    }
  }

  it.effect("CO-10 a sync that is under way while another fails fails as well, at the next step", () =>
    Effect.gen(function*() {
      const cases = [
        ["syncData", "before", [one, two], 1],
        ["syncData", "before", [one], 1],
        ["syncDirectory", "before", [one, two], 3],
        ["syncDirectory", "after", [one, two], 3]
      ] as const
      for (const [operation, when, capsules, syncs] of cases) {
        const disk = newDisk()
        yield* on(disk, (vfs) =>
          Effect.gen(function*() {
            const store = yield* makeCapsuleStore(vfs, { database, syncConcurrency: 1 })
            yield* Effect.forEach([one, two, three], store.put)
            yield* store.sync([two.id])
            const trace = disk.record()
            const hold = disk.hold({ operation, when })
            const underWay = yield* Effect.forkChild(Effect.flip(store.sync(ids(...capsules))), {
              startImmediately: true
            })
            yield* hold.reached
            disk.inject({ operation: "syncData", path: pathOf(three), fault: { kind: "lostSync" } })
            const first = yield* Effect.flip(store.sync([three.id]))
            yield* hold.release
            assert.strictEqual(yield* Fiber.join(underWay), first)
            trace.stop()
            const synced = trace.steps.filter(({ kind }) => kind === "syncData" || kind === "syncDirectory")
            assert.strictEqual(synced.length, syncs, operation)
          }))
      }
    }))

  it.effect("CO-10 after a sync that lost what it was to write, another store puts the same capsule anew", () =>
    Effect.gen(function*() {
      for (const isRemoved of [true, false]) {
        const disk = newDisk()
        disk.inject({ operation: "syncData", fault: { kind: "lostSync" } })
        yield* on(disk, (vfs) =>
          Effect.gen(function*() {
            const store = yield* storeOn(vfs)
            yield* store.put(two)
            yield* Effect.flip(store.sync([two.id]))
          }))
        yield* on(disk, (vfs) =>
          Effect.gen(function*() {
            const store = yield* storeOn(vfs)
            if (isRemoved) yield* store.remove(two.id)
            yield* store.put(two)
            yield* store.sync([two.id])
          }))
        assert.strictEqual(yield* found(disk.afterCrash("lost"), two), "whole")
      }
    }))
})
