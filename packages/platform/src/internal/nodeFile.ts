/**
 * An open file over a descriptor of the operating system.
 *
 * Invariants:
 * 1. The descriptor is closed when no call is under way on it, and no call is started after that: its number may
 *    belong to another file a moment later, and a late write would land there.
 * 2. Positions are safe integers. `node:fs` silently writes at the descriptor's own cursor when it is given anything
 *    but a number.
 * 3. What a plain write left to be synced is counted, because the next sync pays for it (`syncRoute.ts`).
 * 4. What the system refuses to do past the page cache (`EINVAL`: it wants other blocks than these) is done in the usual
 *    way, and so is everything after it on this file. Such a refusal comes before a byte is written; every other failure
 *    is final.
 * 5. Writes in the background are done in the order in which they were asked for, and nothing is written behind one that
 *    failed (`backgroundLine.ts`). Those that lie in memory for it go through a thread of the file, which is given the
 *    next one while the one before is under way.
 *
 * @internal
 */
import { invariant } from "@tidemark/core/Invariant"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as NodeFs from "node:fs"
import type { VfsFile } from "../Vfs.ts"
import { VfsError, type VfsOperation } from "../VfsError.ts"
import { makeBackgroundLine } from "./backgroundLine.ts"
import { DirectTail, maxDirectBytes, widenedRead } from "./directTail.ts"
import { closedError, codeOf, toVfsError } from "./nodeCalls.ts"
import {
  enterRoute,
  leaveRoute,
  leaveRouteAfterTurn,
  recordDuration,
  type SyncRoute,
  type SyncRouteLimits
} from "./syncRoute.ts"
import { byteLengthOf, readFully, readFullySync, writeFully, writeFullySync } from "./transfer.ts"
import type { WriteThread } from "./writeThread.ts"

/** The calls on descriptors that a file is made of; `node:fs` has them, and a test may bring its own. */
export interface DescriptorCalls {
  writev(descriptor: number, buffers: ReadonlyArray<Uint8Array>, position: number, done: Counted): void
  writevSync(descriptor: number, buffers: ReadonlyArray<Uint8Array>, position: number): number
  read(
    descriptor: number,
    buffer: Uint8Array,
    offset: number,
    length: number,
    position: number,
    done: Counted
  ): void
  readSync(descriptor: number, buffer: Uint8Array, offset: number, length: number, position: number): number
  fdatasync(descriptor: number, done: NodeFs.NoParamCallback): void
  fdatasyncSync(descriptor: number): void
  fsync(descriptor: number, done: NodeFs.NoParamCallback): void
}

/** Opens the file of a descriptor once more. */
export type OpenOnceMore = (done: (cause: unknown, descriptor: number) => void) => void

type Counted = (cause: NodeJS.ErrnoException | null, count: number) => void

export interface NodeFile {
  readonly file: VfsFile
  /** Waits for what is under way, then closes. A failure is logged: nobody could do anything about it. */
  readonly close: Effect.Effect<void>
}

type Done<A> = (cause: unknown, value: A) => void

/** A position is a safe integer (invariant 2). */
export const checkPosition = (position: number) =>
  invariant(Number.isSafeInteger(position) && position >= 0, "a position is a safe integer, not negative")

export const makeNodeFile = (options: {
  readonly descriptor: number
  readonly path: string
  readonly route: SyncRoute
  readonly limits: SyncRouteLimits
  readonly calls: DescriptorCalls
  /** Opens the file once more so that each write on the new descriptor is synced by itself, where there is a way. */
  readonly openSynchronous?: OpenOnceMore | undefined
  /** The same, and each write goes past the page cache. */
  readonly openDirect?: OpenOnceMore | undefined
  /** Starts a thread for the writes of the file, where there may be one. */
  readonly startThread?: (() => WriteThread | undefined) | undefined
}): NodeFile => {
  const { calls, descriptor, limits, path, route } = options
  /** Another descriptor of the file, whose writes are synced by themselves: write and sync are one hop to the pool. */
  let synchronous: { readonly descriptor: number | undefined } | undefined
  /** The same past the page cache. */
  let direct: { readonly descriptor: number | undefined } | undefined
  const directTail = new DirectTail()
  let refusesDirect = false
  /** A write past the page cache has succeeded: the system takes such blocks. */
  let takesDirect = false
  const line = makeBackgroundLine(path)
  let thread: { readonly started: WriteThread | undefined } | undefined
  let callsUnderWay = 0
  let isClosing = false
  let onIdle: (() => void) | undefined
  let bytesUnderWay = 0
  // Totals of all plain writes and of those that a sync has brought to the device. A write counts when it has ended: one
  // that was still under way when a sync began may have been missed by it.
  let writtenBytes = 0
  let syncedBytes = 0
  const unsyncedBytes = () => bytesUnderWay + writtenBytes - syncedBytes

  const endCall = () => {
    callsUnderWay--
    if (callsUnderWay > 0 || onIdle === undefined) return
    // Once: closing the numbers again would close what other files have got them by then.
    const closeNow = onIdle
    onIdle = undefined
    closeNow()
  }

  const call = <A>(operation: VfsOperation, start: (done: Done<A>) => void): Effect.Effect<A, VfsError> =>
    takenCall(operation, (done) => {
      if (isClosing) throw closedError(operation, path)
      start(done)
    })

  /** A call that was taken before the file began to close, and is part of one that a close waits for. */
  const takenCall = <A>(operation: VfsOperation, start: (done: Done<A>) => void): Effect.Effect<A, VfsError> =>
    Effect.uninterruptible(Effect.callback<A, VfsError>((resume) => {
      callsUnderWay++
      try {
        start((cause, value) => {
          endCall()
          if (cause === null) return resume(Effect.succeed(value))
          resume(Effect.fail(cause instanceof VfsError ? cause : toVfsError(operation, path, cause)))
        })
      } catch (defect) {
        // What throws here was never handed to the system, and a close must not wait for it.
        endCall()
        if (defect instanceof VfsError) return resume(Effect.fail(defect))
        throw defect
      }
    }))

  const writeSome = (buffers: ReadonlyArray<Uint8Array>, position: number, done: Done<number>) =>
    calls.writev(descriptor, buffers, position, done)
  const writeSomeSync = (buffers: ReadonlyArray<Uint8Array>, position: number) =>
    calls.writevSync(descriptor, buffers, position)
  const readSome = (buffer: Uint8Array, position: number, done: Done<number>) =>
    calls.read(descriptor, buffer, 0, buffer.length, position, done)
  const readSomeSync = (buffer: Uint8Array, position: number) =>
    calls.readSync(descriptor, buffer, 0, buffer.length, position)

  /** Throws a `VfsError`. */
  const readNow = (buffer: Uint8Array, position: number): number => {
    try {
      return readFullySync(readSomeSync, buffer, position)
    } catch (cause) {
      throw toVfsError("read", path, cause)
    }
  }

  const startWrite = (buffers: ReadonlyArray<Uint8Array>, position: number, done: Done<void>) => {
    checkPosition(position)
    directTail.forget()
    const bytes = byteLengthOf(buffers)
    bytesUnderWay += bytes
    writeFully(writeSome, buffers, position, (cause) => {
      bytesUnderWay -= bytes
      writtenBytes += bytes
      done(cause, undefined)
    })
  }

  const startSync = (operation: "syncData" | "syncFull", done: Done<void>) => {
    const covered = writtenBytes
    calls[operation === "syncData" ? "fdatasync" : "fsync"](descriptor, (cause) => {
      if (cause === null) syncedBytes = Math.max(syncedBytes, covered)
      done(cause === null ? null : toVfsError(operation, path, cause), undefined)
    })
  }

  const write = (buffers: ReadonlyArray<Uint8Array>, position: number) =>
    call<void>("write", (done) => startWrite(buffers, position, done))

  const startWriteAndSync = (buffers: ReadonlyArray<Uint8Array>, position: number, done: Done<void>) =>
    startWrite(buffers, position, (cause) => cause === null ? startSync("syncData", done) : done(cause, undefined))

  // One call, so that a close that has begun waits for both halves.
  const writeAndSyncInPool = (take: typeof call, buffers: ReadonlyArray<Uint8Array>, position: number) =>
    take<void>("write", (done) => startWriteAndSync(buffers, position, done))

  const openOnceMore = (open: OpenOnceMore | undefined, opened: (descriptor: number) => void) => {
    if (open === undefined) return
    callsUnderWay++
    open((cause, descriptor) => {
      if (cause === null) opened(descriptor)
      endCall()
    })
  }

  const openSynchronous = () => {
    // Until it is there, and where there is no way, writing and syncing are two hops.
    synchronous = { descriptor: undefined }
    openOnceMore(options.openSynchronous, (opened) => {
      synchronous = { descriptor: opened }
    })
  }

  const openDirect = () => {
    direct = { descriptor: undefined }
    openOnceMore(options.openDirect, (opened) => {
      direct = { descriptor: opened }
    })
  }

  const writeSynchronously = (to: number, buffers: ReadonlyArray<Uint8Array>, position: number) =>
    takenCall<void>("write", (done) => {
      directTail.forget()
      writeFully(
        (some, at, written) => calls.writev(to, some, at, written),
        buffers,
        position,
        (cause) => done(cause, undefined)
      )
    })

  const writeAndSyncInBackground = (buffers: ReadonlyArray<Uint8Array>, position: number, isTail: boolean) =>
    Effect.suspend(() => {
      checkPosition(position)
      if (isClosing) return Effect.fail(closedError("write", path))
      callsUnderWay++
      route.running++
      const write = line(
        (isQueued) => startInBackground(buffers, position, isTail, isQueued),
        () => isTail && canQueue(buffers, position)
      )
      return Effect.ensuring(
        write,
        Effect.sync(() => {
          leaveRoute(route)
          endCall()
        })
      )
    })

  /** The thread is started by the first write that could be followed by one for it: until then it is only possible. */
  const hasWriteQueue = (): boolean =>
    takesDirect && !refusesDirect &&
    (thread === undefined ? options.startThread !== undefined : thread.started?.isRunning === true)

  const canQueue = (buffers: ReadonlyArray<Uint8Array>, position: number): boolean =>
    takesDirect && thread?.started?.takesOrders === true && directTail.continues(buffers, position) &&
    directDescriptor(buffers) !== undefined

  const startInBackground = (
    buffers: ReadonlyArray<Uint8Array>,
    position: number,
    isTail: boolean,
    isQueued: boolean
  ): Effect.Effect<void, VfsError> => {
    const past = isTail ? directDescriptor(buffers) : undefined
    if (past !== undefined) {
      thread ??= { started: options.startThread?.() }
      return isQueued
        ? writeDirectlyInThread(past, buffers, position)
        : writeDirectlyInPool(takenCall, past, buffers, position)
    }
    if (synchronous === undefined && !isClosing) openSynchronous()
    const to = synchronous?.descriptor
    // Its own sync covers its own bytes only, and this call promises those of earlier plain writes, too.
    return to === undefined || unsyncedBytes() > 0
      ? writeAndSyncInPool(takenCall, buffers, position)
      : writeSynchronously(to, buffers, position)
  }

  const openedDirectly = () => refusesDirect ? undefined : direct?.descriptor

  /** Where a write at the end of the file goes directly, `undefined` where it does not. */
  const directDescriptor = (buffers: ReadonlyArray<Uint8Array>): number | undefined => {
    if (direct === undefined && !isClosing) openDirect()
    const bytes = byteLengthOf(buffers)
    // Widened, nothing would be a whole block: it changes nothing, not even the size.
    if (bytes === 0 || bytes > maxDirectBytes) return undefined
    // Its own sync covers its own bytes only, and this call promises those of earlier plain writes, too.
    return unsyncedBytes() > 0 ? undefined : openedDirectly()
  }

  /** Throws a `VfsError` when what stands in front cannot be read; then nothing has begun. */
  const beginDirect = (buffers: ReadonlyArray<Uint8Array>, position: number) =>
    directTail.begin(buffers, position, readNow)

  /** Whether the system takes no such blocks (invariant 4), which is remembered. */
  const isRefusal = (cause: unknown): boolean => {
    if (cause === null || codeOf(cause) !== "EINVAL") return false
    refusesDirect = true
    return true
  }

  /**
   * The order is given when this answers: a fiber that yielded first could be overtaken by one that was told the same
   * about the end of the file.
   */
  const writeDirectlyInThread = (
    to: number,
    buffers: ReadonlyArray<Uint8Array>,
    position: number
  ): Effect.Effect<void, VfsError> => {
    const writing = thread?.started
    invariant(writing !== undefined, "a thread that takes orders was started")
    try {
      const { bytes, position: start } = beginDirect(buffers, position)
      const answer = Deferred.makeUnsafe<void, VfsError>()
      writing.write(to, bytes, start, (cause) => {
        directTail.finish(cause === null)
        Deferred.doneUnsafe(answer, cause === null ? Effect.void : Effect.fail(toVfsError("write", path, cause)))
      })
      return Deferred.await(answer)
    } catch (cause) {
      if (cause instanceof VfsError) return Effect.fail(cause)
      throw cause
    }
  }

  const writeDirectlyInPool = (
    take: typeof call,
    to: number,
    buffers: ReadonlyArray<Uint8Array>,
    position: number
  ) =>
    take<void>("write", (done) => {
      const widened = beginDirect(buffers, position)
      const writeTo = (some: ReadonlyArray<Uint8Array>, at: number, written: Done<number>) =>
        calls.writev(to, some, at, written)
      writeFully(writeTo, [widened.bytes], widened.position, (cause) => {
        directTail.finish(cause === null)
        takesDirect ||= cause === null
        if (isRefusal(cause)) startWriteAndSync(buffers, position, done)
        else done(cause, undefined)
      })
    })

  /** Answers whether the system takes such blocks. Throws what it throws otherwise. */
  const writeDirectlyOnThread = (to: number, buffers: ReadonlyArray<Uint8Array>, position: number): boolean => {
    const widened = beginDirect(buffers, position)
    let hasSucceeded = false
    try {
      writeFullySync((some, at) => calls.writevSync(to, some, at), [widened.bytes], widened.position)
      hasSucceeded = true
    } catch (cause) {
      if (!isRefusal(cause)) throw cause
    } finally {
      directTail.finish(hasSucceeded)
      takesDirect ||= hasSucceeded
    }
    return hasSucceeded
  }

  const writeAndSyncOnThread = (
    buffers: ReadonlyArray<Uint8Array>,
    position: number,
    to: number | undefined
  ): Effect.Effect<void, VfsError> => {
    if (isClosing) return Effect.fail(closedError("write", path))
    let operation: VfsOperation = "write"
    try {
      if (to === undefined || !writeDirectlyOnThread(to, buffers, position)) {
        directTail.forget()
        writeFullySync(writeSomeSync, buffers, position)
        operation = "syncData"
        calls.fdatasyncSync(descriptor)
        syncedBytes = writtenBytes
      }
      return Effect.void
    } catch (cause) {
      return Effect.fail(cause instanceof VfsError ? cause : toVfsError(operation, path, cause))
    }
  }

  const writeAndSyncOnSomeThread = (
    buffers: ReadonlyArray<Uint8Array>,
    position: number,
    isTail: boolean
  ): Effect.Effect<void, VfsError> =>
    Effect.clockWith((clock) => {
      checkPosition(position)
      // The event loop gets its turn before the next one: sockets, timers and other writers are not starved by a leader
      // that finds work each time it is done.
      if (route.onThreadInThisTurn === file) {
        return Effect.andThen(Effect.yieldNow, writeAndSyncOnSomeThread(buffers, position, isTail))
      }
      const bytes = unsyncedBytes() + byteLengthOf(buffers)
      const to = isTail ? directDescriptor(buffers) : undefined
      const isOnThread = enterRoute(route, limits, bytes)
      const started = clock.monotonicTimeNanosUnsafe()
      const record = () => {
        // Big batches take the pool anyway and say little about small ones.
        if (bytes <= limits.maxBytes) recordDuration(route, Number(clock.monotonicTimeNanosUnsafe() - started) / 1000)
      }
      if (!isOnThread) {
        return Effect.ensuring(
          to === undefined
            ? writeAndSyncInPool(call, buffers, position)
            : writeDirectlyInPool(call, to, buffers, position),
          Effect.sync(() => {
            record()
            leaveRoute(route)
          })
        )
      }
      const outcome = writeAndSyncOnThread(buffers, position, to)
      record()
      leaveRouteAfterTurn(route, file)
      return outcome
    })

  const writeAndSyncData: VfsFile["writeAndSyncData"] = (buffers, position, how) =>
    how?.background === true
      ? Effect.uninterruptible(writeAndSyncInBackground(buffers, position, how.tail === true))
      : Effect.uninterruptible(writeAndSyncOnSomeThread(buffers, position, how?.tail === true))

  const file: VfsFile = {
    path,
    read: (buffer, position) =>
      call("read", (done) => {
        checkPosition(position)
        const from = openedDirectly()
        const widened = from === undefined ? undefined : widenedRead(buffer, position)
        if (from === undefined || widened === undefined) return readFully(readSome, buffer, position, done)
        calls.read(from, widened.bytes, 0, widened.bytes.length, widened.position, (cause, count) => {
          if (isRefusal(cause)) return readFully(readSome, buffer, position, done)
          // What a call leaves out may not begin at a block any more: the usual way reads the rest, or finds the end.
          const filled = Math.max(0, Math.min(count - (position - widened.position), buffer.length))
          if (cause !== null || filled === buffer.length) return done(cause, filled)
          readFully(readSome, buffer.subarray(filled), position + filled, (later, more) => done(later, filled + more))
        })
      }),
    readSync: (buffer, position) => {
      checkPosition(position)
      if (isClosing) throw closedError("read", path)
      return readNow(buffer, position)
    },
    write,
    writeAndSyncData,
    hasWriteQueue,
    syncData: call("syncData", (done) => startSync("syncData", done)),
    syncFull: call("syncFull", (done) => startSync("syncFull", done)),
    truncate: (size) =>
      call("truncate", (done) => {
        checkPosition(size)
        directTail.forget()
        NodeFs.ftruncate(descriptor, size, (cause) => done(cause, undefined))
      }),
    size: call("size", (done) => NodeFs.fstat(descriptor, (cause, stats) => done(cause, stats?.size)))
  }

  const close = Effect.flatMap(
    Effect.uninterruptible(Effect.callback<unknown>((resume) => {
      const closeNow = () => {
        thread?.started?.stop()
        const others = [synchronous?.descriptor, direct?.descriptor].filter((other) => other !== undefined)
        closeAll([...others, descriptor], (cause) => resume(Effect.succeed(cause)))
      }
      isClosing = true
      if (callsUnderWay === 0) closeNow()
      else onIdle = closeNow
    })),
    (cause) => cause == null ? Effect.void : Effect.logWarning(`cannot close ${path}: ${codeOf(cause)}`)
  )

  return { file, close }
}

/** Closes one after the other; answers the first failure. */
const closeAll = (descriptors: ReadonlyArray<number>, done: (cause: unknown) => void): void => {
  const [first, ...others] = descriptors
  if (first === undefined) return done(null)
  NodeFs.close(first, (cause) => closeAll(others, (later) => done(cause ?? later)))
}
