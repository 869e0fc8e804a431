/**
 * A disk in memory that loses power, fails and waits when a test says so.
 *
 * **Details**
 *
 * A `MemoryDisk` is the world outside of a program: it survives a simulated crash, `MemoryVfs.layerDisk(disk)` mounts
 * it. Each build of that layer is one process on this disk. What survives a power loss follows the promises of `Vfs`
 * and nothing more:
 *
 * 1. Contents, size, name and removal of a file persist independently. Syncing a file persists neither its name nor
 *    its neighbours; syncing a directory persists no contents.
 * 2. Of what was written since the last sync any subset of blocks of 512 bytes or 4 KiB is there, in any order, and the
 *    last one may be torn at any byte. Bytes that were not written never change.
 * 3. Sizes persist up to some point of their history: an extension without its bytes reads as zeros, bytes without
 *    their extension are gone.
 * 4. `syncData` persists contents and every size that is needed to read them. A cut (`truncate` to less), and an
 *    extension behind which nothing was written, need `syncFull`: until then a power loss may bring the old end back,
 *    under everything that was written and synced since.
 * 5. A sync persists what was written before its call, not what was written while it ran.
 * 6. Changes of one name persist in order, so that a rename leaves the old or the new name, never none and never a
 *    mixture. Changes of different names persist in any combination. A rename from one directory to another needs
 *    `syncDirectory` of both.
 *
 * A killed process (as by SIGKILL) loses nothing of this: what was written stays.
 *
 * **Gotchas**
 *
 * Real file systems lose less than this; what survives here survives there. Directories cannot be renamed, permission
 * bits mean nothing, and holes count as used space.
 *
 * **Example** (Losing what was not synced)
 *
 * ```ts
 * import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
 * import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
 * import { Vfs } from "@tidemark/platform/Vfs"
 * import * as Effect from "effect/Effect"
 *
 * const disk = MemoryDisk.make()
 * const program = Effect.scoped(Effect.gen(function*() {
 *   const vfs = yield* Vfs
 *   const file = yield* vfs.open("/journal", { access: "readWrite", create: "ifMissing" })
 *   yield* vfs.syncDirectory("/")
 *   yield* file.writeAndSyncData([new Uint8Array([1, 2, 3])], 0)
 *   yield* file.write([new Uint8Array([4, 5, 6])], 3)
 * })).pipe(Effect.provide(MemoryVfs.layerDisk(disk)))
 *
 * await Effect.runPromise(program)
 * disk.crash("lost")
 * disk.readFile("/journal") // => new Uint8Array([1, 2, 3])
 * ```
 *
 * @since 0.1.0
 */
import { invariant } from "@tidemark/core/Invariant"
import type * as Effect from "effect/Effect"
import type { Trace } from "./CrashTrace.ts"
import { chooseBy, chooseBySeed, makeSeeded } from "./internal/crashChoosers.ts"
import { type CrashChooser, crashedWorld, describeUnsettled } from "./internal/crashModel.ts"
import { recordTrace } from "./internal/crashTrace.ts"
import { DiskFaults, DiskHolds } from "./internal/diskFaults.ts"
import { DiskImage } from "./internal/diskImage.ts"
import { fileAt, makeDirectories, pathSegments, placeOf, Refusal } from "./internal/diskPaths.ts"
import { type DirectoryNode, DiskWorld } from "./internal/diskWorld.ts"
import { type HeldLock, MemoryProcess, type MountedDisk } from "./internal/memoryProcess.ts"
import type { ProcessIdentity } from "./ProcessLiveness.ts"
import type { VfsOperation } from "./VfsError.ts"

export type { CrashState, CrashStatesOptions, Trace, TraceEvent } from "./CrashTrace.ts"

/**
 * How a disk behaves.
 *
 * @category models
 * @since 0.1.0
 */
export interface MemoryDiskOptions {
  /**
   * `true` (default): each operation lets the event loop turn once before it runs, so that others come in between.
   * `false`: it runs at once. With a seed: it waits 0 ... `maxTurns` turns, so that operations overtake each other.
   */
  readonly async?: boolean | { readonly seed: number; readonly maxTurns: number } | undefined
  /** Sum of the sizes of all files above which writes fail with `ENOSPC`, having written what fits. Default: no limit. */
  readonly capacityBytes?: number | undefined
  /**
   * Whether writes that say `tail` are widened to whole blocks of 4,096 bytes, as a platform does that writes past its
   * page cache: what the block before them holds is written again, and zeros behind them. Default `false`.
   */
  readonly widensTails?: boolean | undefined
}

/**
 * A change of the names in directories that a power loss keeps or drops as a whole.
 *
 * @category models
 * @since 0.1.0
 */
export type NameChange =
  | { readonly kind: "create" | "makeDirectory" | "remove"; readonly path: string }
  | { readonly kind: "rename"; readonly path: string; readonly toPath: string }

/**
 * A part of an unsynced write that a power loss keeps or drops as a whole. `write` counts the unsynced writes of the
 * file from 0 on; `position` is a byte position in the file.
 *
 * @category models
 * @since 0.1.0
 */
export interface UnsyncedBlock {
  readonly path: string
  readonly write: number
  readonly position: number
  readonly length: number
}

/**
 * What a power loss keeps of what was not synced, one by one. What is left out is lost.
 *
 * @category models
 * @since 0.1.0
 */
export interface CrashSelection {
  /** The bytes of writes. */
  readonly contents?: "kept" | "lost" | ((block: UnsyncedBlock) => boolean) | undefined
  /** The sizes of files; the function answers how many of a file's `changes` are kept, from the oldest on. */
  readonly sizes?: "kept" | "lost" | ((file: { readonly path: string; readonly changes: number }) => number) | undefined
  /** Creations, renames, removals. A change is kept only if the earlier ones of the same names are. */
  readonly names?: "kept" | "lost" | ((change: NameChange) => boolean) | undefined
  /** Default 512. */
  readonly blockBytes?: 512 | 4096 | undefined
  /** The unsynced writes of a file land from the newest to the oldest: where they overlap, the oldest wins. */
  readonly isReversed?: boolean | undefined
  /** So many bytes of the last kept block of the last write of a file are there. Default: all. */
  readonly tornAt?: number | undefined
}

/**
 * What a power loss keeps of what was not synced: nothing, everything, what a seed decides, or what is selected.
 *
 * @category models
 * @since 0.1.0
 */
export type CrashChoices = "lost" | "kept" | number | CrashSelection

/**
 * Which operations are meant. A string names one path (the name that the file has at that time); an operation on a
 * rename is matched by the old name, a lock by `"open"`.
 *
 * @category models
 * @since 0.1.0
 */
export interface DiskMatch {
  readonly operation: VfsOperation | ReadonlyArray<VfsOperation> | "any"
  readonly path?: string | RegExp | ((path: string) => boolean) | undefined
  /** So many operations that match go by unharmed first. Default 0. */
  readonly skip?: number | undefined
}

/**
 * What goes wrong.
 *
 * **Details**
 *
 * - `error`: the operation fails and does nothing.
 * - `shortWrite`: the first `bytes` are written, then it fails (default `"ENOSPC"`).
 * - `lostSync`: the sync fails (default `"EIO"`) and marks the pages clean without having written them. What was
 *   written can be read until the crash; no later sync brings it to the disk.
 * - `flippedBit`: a read that covers byte `position` of the file gets it with bit `bit` (0 ... 7) flipped. Reads that
 *   do not cover it do not count.
 *
 * @category models
 * @since 0.1.0
 */
export type Fault =
  | { readonly kind: "error"; readonly code: string }
  | { readonly kind: "shortWrite"; readonly bytes: number; readonly code?: string | undefined }
  | { readonly kind: "lostSync"; readonly code?: string | undefined }
  | { readonly kind: "flippedBit"; readonly position: number; readonly bit: number }

/**
 * When what goes wrong. `skip: k - 1` strikes the k-th operation.
 *
 * @category models
 * @since 0.1.0
 */
export interface FaultPlan extends DiskMatch {
  readonly fault: Fault
  /** How many operations it strikes. Default 1; `Infinity` until it is removed. */
  readonly times?: number | undefined
}

/**
 * A fault that was laid on a disk.
 *
 * @category models
 * @since 0.1.0
 */
export interface FaultHandle {
  /** How often it struck. */
  readonly hits: number
  readonly remove: () => void
}

/**
 * Which operation waits, and at which moment: `"before"` (default) it changes or reads anything, or `"after"`, when it
 * is done but its caller does not know yet.
 *
 * @category models
 * @since 0.1.0
 */
export interface HoldOptions extends DiskMatch {
  readonly when?: "before" | "after" | undefined
}

/**
 * An operation that waits. The first that matches is held; `release` lets it (or a later first one) go on. When its
 * process dies it is released, and fails.
 *
 * @category models
 * @since 0.1.0
 */
export interface Hold {
  /** Completes when an operation is being held. */
  readonly reached: Effect.Effect<void>
  readonly release: Effect.Effect<void>
}

/**
 * The world outside of a program: names, files, what of them is durable, who has it mounted.
 *
 * @category models
 * @since 0.1.0
 */
export class MemoryDisk {
  /** May be changed at any time, to let a full disk have room again. */
  capacityBytes: number
  #world: DiskWorld
  readonly #options: MemoryDiskOptions
  readonly #faults = new DiskFaults()
  readonly #holds = new DiskHolds()
  readonly #locks = new Set<HeldLock>()
  readonly #processes = new Set<MemoryProcess>()
  #processCount = 0
  readonly #nextTurns: () => number

  private constructor(world: DiskWorld, options: MemoryDiskOptions) {
    this.#world = world
    this.#options = options
    this.capacityBytes = options.capacityBytes ?? Number.POSITIVE_INFINITY
    const { async = true } = options
    if (typeof async === "object") {
      const random = makeSeeded(async.seed)
      this.#nextTurns = () => random.below(async.maxTurns + 1)
    } else {
      const turns = async ? 1 : 0
      this.#nextTurns = () => turns
    }
  }

  /** An empty disk. */
  static make(options: MemoryDiskOptions = {}): MemoryDisk {
    return new MemoryDisk(DiskWorld.empty(), options)
  }

  /**
   * The power fails: every process on this disk dies, and of what was not synced only what the choices keep is there
   * afterwards. The disk can be mounted again. Faults and holds that were laid on it stay.
   */
  crash(choices: CrashChoices): void {
    const world = crashedWorld(this.#world, chooserOf(choices))
    this.#bury(Array.from(this.#processes), () => {
      this.#world = world
    })
  }

  /** The disk that {@link MemoryDisk.crash} would leave, without touching this one. */
  afterCrash(choices: CrashChoices): MemoryDisk {
    return this.#sibling(crashedWorld(this.#world, chooserOf(choices)))
  }

  /**
   * A process (default: all) dies as by SIGKILL: what it wrote stays, synced or not, its locks are released, and what
   * it still calls fails with `EIO` without touching the disk.
   */
  kill(process?: ProcessIdentity): void {
    const dying = Array.from(this.#processes).filter(({ identity }) =>
      process === undefined || identity.pid === process.pid && identity.birth === process.birth
    )
    this.#bury(dying, () => {})
  }

  /** Starts recording, until the trace is stopped or the disk crashes. One recording at a time. */
  record<Mark = never>(): Trace<Mark> {
    return recordTrace({ world: this.#world, diskOf: (world) => this.#sibling(world), chooserOf })
  }

  /** Lets operations fail. */
  inject(plan: FaultPlan): FaultHandle {
    return this.#faults.inject(plan)
  }

  /** Lets one operation wait. */
  hold(options: HoldOptions): Hold {
    return this.#holds.place(options)
  }

  /** What a power loss could take now, one sentence each. Empty when everything is durable. */
  get unsynced(): ReadonlyArray<string> {
    return describeUnsettled(this.#world)
  }

  /** The paths of all files, sorted. */
  get files(): ReadonlyArray<string> {
    const paths: Array<string> = []
    const visit = (directory: DirectoryNode) => {
      for (const node of directory.entries.values()) {
        if (node.kind === "directory") visit(node)
        else paths.push(node.path)
      }
    }
    visit(this.#world.root)
    return paths.toSorted()
  }

  /** A copy of the bytes that a program would read now, or `undefined` when there is no such file. */
  readFile(path: string): Uint8Array | undefined {
    try {
      return fileAt(this.#world, path).current.toBytes()
    } catch (refusal) {
      if (refusal instanceof Refusal) return undefined
      throw refusal
    }
  }

  /**
   * Puts a file there with its name and missing directories, durable at once, as if it always had been there: for
   * damaged files. Open handles see the new bytes. Not part of a recording, so it is refused while one runs.
   */
  writeFile(path: string, bytes: Uint8Array): void {
    const world = this.#world
    invariant(world.observer === undefined, "files are put on a disk before a recording, not during one")
    const segments = pathSegments(path)
    makeDirectories(world, segments.slice(0, -1).join("/"))
    const place = placeOf(world, path)
    invariant(place.node?.kind !== "directory", "no directory stands where a file is to be put")
    const file = place.node ?? world.createFile(place.directory, place.name)
    file.current = DiskImage.of(bytes)
    file.durable = file.current.fork()
    file.pending = []
    file.hasLostWrites = false
    let directory = world.root
    for (const segment of segments) {
      world.syncDirectory(directory, world.sequence)
      const next = directory.entries.get(segment)
      if (next?.kind === "directory") directory = next
    }
  }

  /**
   * A process that uses this disk.
   *
   * @internal
   */
  mount(): { readonly process: MemoryProcess; readonly unmount: () => void } {
    const birth = ++this.#processCount
    const process = new MemoryProcess(this.#mounted(), { pid: 1000 + birth, birth: BigInt(birth) })
    this.#processes.add(process)
    return { process, unmount: () => this.#bury([process], () => {}) }
  }

  /**
   * Whether a process has this disk mounted.
   *
   * @internal
   */
  isAlive(identity: ProcessIdentity): boolean {
    for (const process of this.#processes) {
      if (process.identity.pid === identity.pid && process.identity.birth === identity.birth) return true
    }
    return false
  }

  #mounted(): MountedDisk {
    const world = () => this.#world
    return {
      get world() {
        return world()
      },
      faults: this.#faults,
      holds: this.#holds,
      locks: this.#locks,
      nextTurns: this.#nextTurns,
      freeBytes: () => this.#freeBytes(),
      widensTails: this.#options.widensTails === true
    }
  }

  #freeBytes(): number {
    if (this.capacityBytes === Number.POSITIVE_INFINITY) return this.capacityBytes
    let used = 0
    const visit = (directory: DirectoryNode) => {
      for (const node of directory.entries.values()) {
        if (node.kind === "directory") visit(node)
        else used += node.current.size
      }
    }
    visit(this.#world.root)
    return Math.max(0, this.capacityBytes - used)
  }

  #sibling(world: DiskWorld): MemoryDisk {
    return new MemoryDisk(world, { ...this.#options, capacityBytes: this.capacityBytes })
  }

  /** Held operations go on last: they resume their fibers at once, which must find the world as it is afterwards. */
  #bury(dying: ReadonlyArray<MemoryProcess>, change: () => void): void {
    for (const process of dying) {
      process.isAlive = false
      this.#processes.delete(process)
      for (const lock of this.#locks) if (lock.owner === process) this.#locks.delete(lock)
    }
    change()
    for (const process of dying) this.#holds.releaseAll(process)
  }
}

const chooserOf = (choices: CrashChoices): CrashChooser => {
  if (typeof choices === "number") return chooseBySeed(choices)
  if (choices === "lost") return chooseBy({})
  if (choices === "kept") return chooseBy({ contents: "kept", sizes: "kept", names: "kept" })
  return chooseBy(choices)
}
