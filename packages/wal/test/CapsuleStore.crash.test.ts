/** What a power loss and a failure leave of capsules that are put and synced (CO-10, RC-15, RC-16). */
import { assert, describe, it } from "@effect/vitest"
import type { CrashSelection } from "@tidemark/platform/MemoryDisk"
import { Effect, Fiber, Result } from "effect"
import { isAnyTemporaryName, nameOf } from "../src/AtomicFile.ts"
import { capsulesDirectory, type EncodedCapsule } from "../src/CapsuleFormat.ts"
import { listCapsules, makeCapsuleStore } from "../src/CapsuleStore.ts"
import { database, found, ids, newDisk, on, one, pathOf, storeOn, three, two } from "./support/capsuleDisks.ts"

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
