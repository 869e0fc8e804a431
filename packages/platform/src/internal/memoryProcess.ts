/**
 * One process that has a simulated disk mounted: its `Vfs`, its locks, its identity.
 *
 * 1. An operation changes the disk in one synchronous step; before and after it others may run.
 * 2. Once the process is dead, no operation of it touches the disk, whenever it was called.
 * 3. A started operation cannot be interrupted, as with a call that the kernel has taken.
 */
import { invariant } from "@tidemark/core/Invariant"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { type AcquireOptions, FileLock, type HeldOptions, type LockRange, RangeLocked } from "../FileLock.ts"
import type { Fault } from "../MemoryDisk.ts"
import { type ProcessIdentity, ProcessLiveness } from "../ProcessLiveness.ts"
import { blockBytes } from "../TailMemory.ts"
import { Vfs, type VfsFile, type VfsIdentity, type VfsOpenOptions } from "../Vfs.ts"
import { VfsError, type VfsOperation } from "../VfsError.ts"
import { makeBackgroundLine } from "./backgroundLine.ts"
import type { DiskFaults, DiskHolds } from "./diskFaults.ts"
import { directoryAt, fileAt, makeDirectories, normalizePath, pathSegments, placeOf, Refusal } from "./diskPaths.ts"
import type { DiskWorld, FileNode } from "./diskWorld.ts"
import { byteLengthOf } from "./transfer.ts"

/**
 * What a process sees of the disk. `world` is another one after a power loss.
 *
 * @internal
 */
export interface MountedDisk {
  readonly world: DiskWorld
  readonly faults: DiskFaults
  readonly holds: DiskHolds
  readonly locks: Set<HeldLock>
  /** How many turns of the event loop the next operation waits before it runs. */
  readonly nextTurns: () => number
  /** Bytes that may still be added to files. */
  readonly freeBytes: () => number
  /** `MemoryDiskOptions.widensTails`. */
  readonly widensTails: boolean
}

/** @internal */
export interface HeldLock {
  readonly owner: MemoryProcess
  readonly file: FileNode
  readonly start: number
  readonly end: number
  readonly mode: "shared" | "exclusive"
}

/** @internal */
export class MemoryProcess {
  readonly identity: ProcessIdentity
  isAlive = true
  readonly #disk: MountedDisk

  constructor(disk: MountedDisk, identity: ProcessIdentity) {
    this.#disk = disk
    this.identity = identity
  }

  readonly vfs = Vfs.of({
    open: (path, options) =>
      Effect.map(
        Effect.acquireRelease(
          this.#onNames("open", path, () => this.#open(path, options)),
          (handle) =>
            Effect.sync(() => {
              handle.isOpen = false
            })
        ),
        (handle) => this.#file(handle)
      ),
    readSync: (path, buffer, position) => {
      checkPosition(position)
      const file = this.#step("open", path, () => this.#open(path, { access: "read" }).file)
      return this.#step("read", path, () => this.#read(file, buffer, position))
    },
    remove: (path) =>
      this.#onNames("remove", path, () => {
        const { directory, name, node } = placeOf(this.#disk.world, path)
        if (node === undefined) throw new Refusal("ENOENT", "there is no such file")
        if (node.kind === "directory") throw new Refusal("EISDIR", "a directory stands there")
        this.#disk.world.remove(directory, name)
      }),
    rename: (from, to) =>
      this.#onNames("rename", from, () => {
        const { world } = this.#disk
        const file = fileAt(world, from)
        const source = placeOf(world, from)
        const target = placeOf(world, to)
        if (target.node?.kind === "directory") throw new Refusal("EISDIR", "a directory stands at the new name")
        if (target.node === file) return
        world.rename(source.directory, source.name, target.directory, target.name)
      }),
    list: (path) =>
      this.#onNames(
        "list",
        path,
        () => Array.from(directoryAt(this.#disk.world, pathSegments(path)).entries.keys()).toSorted()
      ),
    makeDirectory: (path) =>
      this.#onNames("makeDirectory", path, () => {
        makeDirectories(this.#disk.world, path)
      }),
    syncDirectory: (path) =>
      Effect.suspend(() => {
        const upTo = this.#disk.world.sequence
        return this.#onNames("syncDirectory", path, () => {
          this.#disk.world.syncDirectory(directoryAt(this.#disk.world, pathSegments(path)), upTo)
        })
      }),
    identify: (path) => this.#onNames("identify", path, () => this.#identify(path))
  })

  readonly fileLock = FileLock.of({
    acquire: (path, options) => this.#acquireLock(path, options),
    isHeld: (path, options) => this.#isLockHeld(path, options)
  })

  liveness(isAlive: (process: ProcessIdentity) => boolean) {
    return ProcessLiveness.of({ self: this.identity, isAlive: (process) => Effect.sync(() => isAlive(process)) })
  }

  #open(path: string, options: VfsOpenOptions): Handle {
    const { world } = this.#disk
    const create = options.create ?? "never"
    if (pathSegments(path).length === 0) throw new Refusal("EISDIR", "the root is a directory")
    const { directory, name, node } = placeOf(world, path)
    if (node !== undefined && create === "exclusive") throw new Refusal("EEXIST", "the name is taken")
    if (node?.kind === "directory") throw new Refusal("EISDIR", "a directory stands there")
    if (node === undefined && create === "never") throw new Refusal("ENOENT", "there is no such file")
    const file = node ?? world.createFile(directory, name)
    return { path, file, access: options.access, isOpen: true }
  }

  #identify(path: string): VfsIdentity | undefined {
    const { world } = this.#disk
    const segments = pathSegments(path)
    const name = segments.at(-1)
    try {
      const node = name === undefined ? world.root : directoryAt(world, segments.slice(0, -1)).entries.get(name)
      if (node === undefined) return undefined
      return { kind: node.kind, size: node.kind === "file" ? node.current.size : 0, inode: `memory:${node.id}` }
    } catch (refusal) {
      // A file in the middle of the path is as good as a missing directory: nothing stands behind it.
      if (refusal instanceof Refusal) return undefined
      throw refusal
    }
  }

  #file(handle: Handle): VfsFile {
    const { file, path } = handle
    const takenWrite = (buffers: ReadonlyArray<Uint8Array>, position: number) =>
      this.#onTakenFile("write", handle, () => {
        refuseReadOnly(handle, "EBADF")
        this.#write(file, buffers, position)
      })
    const takenWidenedWrite = (buffers: ReadonlyArray<Uint8Array>, position: number) =>
      this.#onTakenFile("write", handle, () => {
        refuseReadOnly(handle, "EBADF")
        const start = position - (position % blockBytes)
        const front = new Uint8Array(position - start)
        file.current.read(front, start)
        const behind = new Uint8Array(-(position + byteLengthOf(buffers)) & (blockBytes - 1))
        this.#write(file, [front, ...buffers, behind], start)
      })
    const takenSync = (operation: "syncData" | "syncFull") =>
      Effect.suspend(() => {
        const upTo = this.#disk.world.sequence
        return this.#onTakenFile(operation, handle, () => this.#sync(file, operation, upTo))
      })
    const takenSyncData = takenSync("syncData")
    const readNow = (buffer: Uint8Array, position: number) => this.#read(file, buffer, position)
    const line = makeBackgroundLine(path)
    return {
      path,
      read: (buffer, position) => {
        checkPosition(position)
        return this.#onFile("read", handle, () => readNow(buffer, position))
      },
      readSync: (buffer, position) => {
        checkPosition(position)
        if (!handle.isOpen) throw closed("read", path)
        return this.#step("read", path, () => readNow(buffer, position))
      },
      write: (buffers, position) => {
        checkPosition(position)
        return ifOpen("write", handle, takenWrite(buffers, position))
      },
      // One call, which the end of the file or of its fiber takes nothing from, also while it waits for its turn.
      writeAndSyncData: (buffers, position, how) => {
        checkPosition(position)
        const writeAndSync = Effect.andThen(
          how?.tail === true && this.#disk.widensTails && byteLengthOf(buffers) > 0
            ? takenWidenedWrite(buffers, position)
            : takenWrite(buffers, position),
          takenSyncData
        )
        return Effect.uninterruptible(
          ifOpen("write", handle, how?.background === true ? line(() => writeAndSync) : writeAndSync)
        )
      },
      // As over a file, where the thread that writes is another one.
      hasWriteQueue: () => true,
      syncData: ifOpen("syncData", handle, takenSyncData),
      syncFull: ifOpen("syncFull", handle, takenSync("syncFull")),
      truncate: (size) => {
        checkPosition(size)
        return this.#onFile("truncate", handle, () => {
          refuseReadOnly(handle, "EINVAL")
          this.#faultOf("truncate", file.path, size, 0)
          if (size - file.current.size > this.#disk.freeBytes()) throw new Refusal("ENOSPC", "the disk is full")
          this.#disk.world.truncate(file, size)
        })
      },
      size: this.#onFile("size", handle, () => {
        this.#faultOf("size", file.path, 0, 0)
        return file.current.size
      })
    }
  }

  #read(file: FileNode, buffer: Uint8Array, position: number): number {
    const fault = this.#faultOf("read", file.path, position, buffer.length)
    const count = file.current.read(buffer, position)
    if (fault?.kind === "flippedBit" && fault.position < position + count) {
      const index = fault.position - position
      buffer[index] = (buffer[index] ?? 0) ^ (1 << fault.bit)
    }
    return count
  }

  #write(file: FileNode, buffers: ReadonlyArray<Uint8Array>, position: number): void {
    const bytes = joined(buffers)
    const fault = this.#faultOf("write", file.path, position, bytes.length)
    if (fault?.kind === "shortWrite") {
      this.#disk.world.write(file, position, bytes.subarray(0, Math.min(fault.bytes, bytes.length)))
      throw new Refusal(fault.code ?? "ENOSPC", "an injected fault let only a part be written")
    }
    const room = file.current.size + this.#disk.freeBytes() - position
    if (bytes.length > 0 && bytes.length > room) {
      if (room > 0) this.#disk.world.write(file, position, bytes.subarray(0, room))
      throw new Refusal("ENOSPC", "the disk is full")
    }
    this.#disk.world.write(file, position, bytes)
  }

  #sync(file: FileNode, operation: "syncData" | "syncFull", upTo: number): void {
    const fault = this.#faultOf(operation, file.path, 0, 0)
    if (fault?.kind === "lostSync") {
      this.#disk.world.loseDirtyPages(file, upTo)
      throw new Refusal(fault.code ?? "EIO", "an injected fault marked the pages clean without writing them")
    }
    this.#disk.world.sync(file, operation === "syncFull", upTo)
  }

  #acquireLock(
    path: string,
    { create, mode, range }: AcquireOptions
  ): Effect.Effect<void, RangeLocked | VfsError, Scope.Scope> {
    checkRange(range)
    const acquire = this.#onNames("open", path, () => {
      const { file } = this.#open(path, {
        access: "readWrite",
        create: create === true ? "ifMissing" : "never"
      })
      const wanted = this.#lockOn(file, mode, range)
      if (this.#isExcluded(wanted)) return undefined
      this.#disk.locks.add(wanted)
      return wanted
    }).pipe(
      Effect.filterOrFail((lock) => lock !== undefined, () => new RangeLocked({ path, ...range, mode }))
    )
    return Effect.asVoid(
      Effect.acquireRelease(acquire, (lock) =>
        Effect.sync(() => {
          this.#disk.locks.delete(lock)
        }))
    )
  }

  #isLockHeld(path: string, { mode, range }: HeldOptions): Effect.Effect<boolean, VfsError> {
    checkRange(range)
    return this.#onNames("open", path, () => {
      const { file } = this.#open(path, { access: "read" })
      return this.#isExcluded(this.#lockOn(file, mode, range))
    }).pipe(Effect.catchIf(({ code }) => code === "ENOENT" || code === "ENOTDIR", () => Effect.succeed(false)))
  }

  #lockOn(file: FileNode, mode: HeldLock["mode"], range: LockRange): HeldLock {
    return { owner: this, file, start: range.start, end: range.start + range.length, mode }
  }

  #isExcluded(wanted: HeldLock): boolean {
    for (const held of this.#disk.locks) if (excludes(held, wanted)) return true
    return false
  }

  #onFile<A>(operation: VfsOperation, handle: Handle, body: () => A): Effect.Effect<A, VfsError> {
    return ifOpen(operation, handle, this.#onTakenFile(operation, handle, body))
  }

  #onTakenFile<A>(operation: VfsOperation, handle: Handle, body: () => A): Effect.Effect<A, VfsError> {
    return Effect.suspend(() => this.#turns(operation, handle.file.path, handle.path, body))
  }

  #onNames<A>(operation: VfsOperation, path: string, body: () => A): Effect.Effect<A, VfsError> {
    const normalized = normalizePath(path)
    return this.#turns(operation, normalized, path, () => {
      this.#faultOf(operation, normalized, 0, 0)
      return body()
    })
  }

  /** `matchedPath` is what holds look at, `path` what the caller named the file. */
  #turns<A>(operation: VfsOperation, matchedPath: string, path: string, body: () => A): Effect.Effect<A, VfsError> {
    const disk = this.#disk
    const act = Effect.suspend(() => {
      try {
        return Effect.succeed(this.#step(operation, path, body))
      } catch (error) {
        if (error instanceof VfsError) return Effect.fail(error)
        throw error
      }
    })
    return Effect.uninterruptible(Effect.suspend(() => {
      const turns = disk.nextTurns()
      if (turns === 0 && disk.holds.isEmpty) return act
      const pass = (when: "before" | "after") =>
        Effect.suspend(() => disk.holds.pass(this, when, operation, matchedPath))
      return waitTurns(turns).pipe(
        Effect.andThen(pass("before")),
        Effect.andThen(act),
        Effect.tap(() => pass("after")),
        // Done, but nobody is left who could be told.
        Effect.filterOrFail(() => this.isAlive, () => dead(operation, path))
      )
    }))
  }

  #step<A>(operation: VfsOperation, path: string, body: () => A): A {
    if (!this.isAlive) throw dead(operation, path)
    try {
      return body()
    } catch (error) {
      if (error instanceof Refusal) throw new VfsError({ operation, path, code: error.code, cause: error })
      throw error
    }
  }

  /** Throws an injected error; answers the faults that are more than an error. */
  #faultOf(operation: VfsOperation, path: string, position: number, length: number): Fault | undefined {
    const fault = this.#disk.faults.next({ operation, path, position, length })
    if (fault?.kind === "error") throw new Refusal(fault.code, "an injected fault")
    return fault
  }
}

interface Handle {
  readonly path: string
  readonly file: FileNode
  readonly access: "read" | "readWrite"
  isOpen: boolean
}

const waitTurns = (turns: number): Effect.Effect<void> =>
  turns === 0 ? Effect.void : turns === 1 ? Effect.yieldNow : Effect.andThen(Effect.yieldNow, waitTurns(turns - 1))

const checkPosition = (position: number) => {
  invariant(Number.isSafeInteger(position) && position >= 0, "a position is a safe integer, not negative")
}

const checkRange = (range: LockRange) => {
  checkPosition(range.start)
  invariant(range.length >= 1 && Number.isSafeInteger(range.start + range.length), "a lock has at least one byte")
}

/** A call that was taken runs to its end even when the file is closed meanwhile: only its beginning is checked. */
const ifOpen = <A>(operation: VfsOperation, handle: Handle, call: Effect.Effect<A, VfsError>) =>
  Effect.suspend(() => handle.isOpen ? call : Effect.fail(closed(operation, handle.path)))

const refuseReadOnly = (handle: Handle, code: string) => {
  if (handle.access === "read") throw new Refusal(code, "the file is open for reading only")
}

const closed = (operation: VfsOperation, path: string) =>
  new VfsError({ operation, path, code: "EBADF", cause: new Refusal("EBADF", "the file is closed") })

const dead = (operation: VfsOperation, path: string) =>
  new VfsError({ operation, path, code: "EIO", cause: new Refusal("EIO", "the process that called is dead") })

const excludes = (a: HeldLock, b: HeldLock): boolean =>
  a.file === b.file && a.start < b.end && b.start < a.end && (a.mode === "exclusive" || b.mode === "exclusive")

const joined = (buffers: ReadonlyArray<Uint8Array>): Uint8Array => {
  const bytes = new Uint8Array(buffers.reduce((length, buffer) => length + buffer.length, 0))
  let end = 0
  for (const buffer of buffers) {
    bytes.set(buffer, end)
    end += buffer.length
  }
  return bytes
}
