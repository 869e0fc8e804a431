/**
 * The state of a simulated disk: what programs see of it, what of it a power loss cannot take, and what lies between.
 *
 * 1. `current` of a file and `entries` of a directory are what programs see: the page cache.
 * 2. `durable` of both is what survives every power loss.
 * 3. `pending` of a file and `pendingNames` hold, in order, the changes that lead from the durable state to what
 *    programs see and that a power loss may take or keep.
 * 4. Contents, size, name and removal settle independently: syncing a file settles no name, syncing a directory no
 *    contents, and neither settles anything of its neighbours.
 * 5. A sync settles what was done before its call (`upTo`), not what was done while it ran.
 * 6. Every change is made by exactly one method and told to `observer` as a value; applying these values in order to a
 *    copy of the state before them gives the same state again.
 */
import { invariant } from "@tidemark/core/Invariant"
import type { TraceEvent } from "../CrashTrace.ts"
import type { NameChange } from "../MemoryDisk.ts"
import { DiskImage } from "./diskImage.ts"

/**
 * A write that is not settled. `data` is `"dirty"` (a power loss decides), `"synced"` (kept, but a cut of the file
 * before it is not durable yet, so that it cannot settle) or `"lost"` (a failed sync marked its pages clean: visible
 * until the crash, never on the disk).
 *
 * @internal
 */
export interface PendingWrite {
  readonly kind: "write"
  readonly sequence: number
  readonly position: number
  readonly bytes: Uint8Array
  readonly data: "dirty" | "synced" | "lost"
  /** Whether the size that this write needs is durable. */
  readonly isSizeSynced: boolean
}

/** @internal */
export interface PendingResize {
  readonly kind: "shrink" | "extend"
  readonly sequence: number
  readonly size: number
}

/** @internal */
export interface FileNode {
  readonly kind: "file"
  readonly id: number
  /** The name that it was given last. */
  path: string
  current: DiskImage
  durable: DiskImage
  pending: Array<PendingWrite | PendingResize>
  /** Whether `current` may differ from `durable` where nothing is pending: writes were lost by a failed sync. */
  hasLostWrites: boolean
}

/** @internal */
export interface DirectoryNode {
  readonly kind: "directory"
  readonly id: number
  readonly path: string
  readonly entries: Map<string, DiskNode>
  readonly durable: Map<string, DiskNode>
}

/** @internal */
export type DiskNode = FileNode | DirectoryNode

/** @internal */
export interface NameEdit {
  readonly directory: DirectoryNode
  readonly name: string
  readonly node: DiskNode | undefined
}

/**
 * A change of names that a power loss keeps or drops as a whole. It persists only if all earlier pending changes of
 * the same names do: this is what makes a rename leave the old or the new name and never none.
 *
 * @internal
 */
export interface PendingName {
  readonly sequence: number
  readonly change: NameChange
  readonly edits: ReadonlyArray<NameEdit>
  /** The directories that were synced since. */
  readonly syncedIn: Set<DirectoryNode>
}

/** @internal */
export const nameKey = (edit: NameEdit): string => `${edit.directory.id}/${edit.name}`

const childPath = (directory: DirectoryNode, name: string): string =>
  directory.path === "/" ? `/${name}` : `${directory.path}/${name}`

/** @internal */
export class DiskWorld {
  readonly root: DirectoryNode
  pendingNames: Array<PendingName> = []
  /** Number of changes so far; it never repeats, also not after a crash. */
  sequence: number
  nextId: number
  observer: ((event: TraceEvent) => void) | undefined = undefined

  constructor(root: DirectoryNode, sequence: number, nextId: number) {
    this.root = root
    this.sequence = sequence
    this.nextId = nextId
  }

  static empty(): DiskWorld {
    return new DiskWorld({ kind: "directory", id: 1, path: "/", entries: new Map(), durable: new Map() }, 0, 2)
  }

  createFile(directory: DirectoryNode, name: string): FileNode {
    const node: FileNode = {
      kind: "file",
      id: this.nextId++,
      path: childPath(directory, name),
      current: new DiskImage(),
      durable: new DiskImage(),
      pending: [],
      hasLostWrites: false
    }
    this.#changeNames({ kind: "create", path: node.path }, [{ directory, name, node }])
    this.observer?.({ kind: "create", path: node.path, directory: directory.id, name, inode: node.id })
    return node
  }

  makeDirectory(directory: DirectoryNode, name: string): DirectoryNode {
    const node: DirectoryNode = {
      kind: "directory",
      id: this.nextId++,
      path: childPath(directory, name),
      entries: new Map(),
      durable: new Map()
    }
    this.#changeNames({ kind: "makeDirectory", path: node.path }, [{ directory, name, node }])
    this.observer?.({ kind: "makeDirectory", path: node.path, directory: directory.id, name, inode: node.id })
    return node
  }

  remove(directory: DirectoryNode, name: string): void {
    invariant(directory.entries.get(name)?.kind === "file", "only a file that exists is removed")
    const path = childPath(directory, name)
    this.#changeNames({ kind: "remove", path }, [{ directory, name, node: undefined }])
    this.observer?.({ kind: "remove", path, directory: directory.id, name })
  }

  rename(from: DirectoryNode, fromName: string, to: DirectoryNode, toName: string): void {
    const node = from.entries.get(fromName)
    invariant(node?.kind === "file", "only a file that exists is renamed")
    const path = childPath(from, fromName)
    const toPath = childPath(to, toName)
    this.#changeNames({ kind: "rename", path, toPath }, [
      { directory: from, name: fromName, node: undefined },
      { directory: to, name: toName, node }
    ])
    node.path = toPath
    this.observer?.({ kind: "rename", path, toPath, directory: from.id, name: fromName, toDirectory: to.id, toName })
  }

  /** `bytes` is kept: the caller hands over a copy of its own. */
  write(file: FileNode, position: number, bytes: Uint8Array): void {
    if (bytes.length === 0) return
    file.current.write(bytes, position)
    const sequence = ++this.sequence
    file.pending.push({ kind: "write", sequence, position, bytes, data: "dirty", isSizeSynced: false })
    this.observer?.({ kind: "write", path: file.path, inode: file.id, position, bytes })
  }

  truncate(file: FileNode, size: number): void {
    if (size === file.current.size) return
    const kind = size < file.current.size ? "shrink" : "extend"
    file.current.resize(size)
    file.pending.push({ kind, sequence: ++this.sequence, size })
    this.observer?.({ kind: "truncate", path: file.path, inode: file.id, size })
  }

  /**
   * `isFull` also settles changes of the size that no write needs. Without it a cut stays undecided, and with it the
   * writes behind it, whose bytes are safe all the same.
   */
  sync(file: FileNode, isFull: boolean, upTo: number): void {
    settleFile(file, isFull, upTo)
    this.observer?.({ kind: isFull ? "syncFull" : "syncData", path: file.path, inode: file.id, upTo })
  }

  /** A failed sync that marked the pages clean without having written them. */
  loseDirtyPages(file: FileNode, upTo: number): void {
    file.pending = file.pending.map((op) =>
      op.kind === "write" && op.sequence <= upTo && op.data === "dirty" ? { ...op, data: "lost" } : op
    )
    file.hasLostWrites = true
    this.observer?.({ kind: "lostSync", path: file.path, inode: file.id, upTo })
  }

  syncDirectory(directory: DirectoryNode, upTo: number): void {
    this.#settleNames(directory, upTo)
    this.observer?.({ kind: "syncDirectory", path: directory.path, inode: directory.id, upTo })
  }

  #changeNames(change: NameChange, edits: ReadonlyArray<NameEdit>): void {
    for (const edit of edits) applyEdit(edit.directory.entries, edit)
    this.pendingNames.push({ sequence: ++this.sequence, change, edits, syncedIn: new Set() })
  }

  #settleNames(directory: DirectoryNode, upTo: number): void {
    for (const pending of this.pendingNames) {
      if (pending.sequence <= upTo && pending.edits.some((edit) => edit.directory === directory)) {
        pending.syncedIn.add(directory)
      }
    }
    // From the newest to the oldest, because a change that settles takes with it the earlier ones of its names.
    const needed = new Set<string>()
    const settled = new Set<PendingName>()
    for (const pending of this.pendingNames.toReversed()) {
      const isSettled = pending.edits.every((edit) => pending.syncedIn.has(edit.directory)) ||
        pending.edits.some((edit) => needed.has(nameKey(edit)))
      if (!isSettled) continue
      settled.add(pending)
      for (const edit of pending.edits) needed.add(nameKey(edit))
    }
    const rest: Array<PendingName> = []
    for (const pending of this.pendingNames) {
      if (!settled.has(pending)) rest.push(pending)
      else for (const edit of pending.edits) applyEdit(edit.directory.durable, edit)
    }
    this.pendingNames = rest
  }
}

/** @internal */
export const applyEdit = (entries: Map<string, DiskNode>, edit: NameEdit): void => {
  if (edit.node === undefined) entries.delete(edit.name)
  else entries.set(edit.name, edit.node)
}

const settleFile = (file: FileNode, isFull: boolean, upTo: number): void => {
  const isAllCovered = file.pending.every((op) => op.sequence <= upTo && (isFull || op.kind === "write"))
  if (isAllCovered && !file.hasLostWrites) {
    if (file.pending.length > 0) file.durable = file.current.fork()
    file.pending = []
    return
  }
  const rest: FileNode["pending"] = []
  let isBehindShrink = false
  for (const op of file.pending) {
    if (op.sequence > upTo) rest.push(op)
    else if (op.kind === "write") {
      if (isBehindShrink) rest.push({ ...op, data: op.data === "dirty" ? "synced" : op.data, isSizeSynced: true })
      else if (op.data === "lost") file.durable.resize(Math.max(file.durable.size, op.position + op.bytes.length))
      else file.durable.write(op.bytes, op.position)
    } else if (isFull) {
      file.durable.resize(op.kind === "shrink" ? op.size : Math.max(file.durable.size, op.size))
    } else {
      rest.push(op)
      isBehindShrink ||= op.kind === "shrink"
    }
  }
  file.pending = rest
}

/**
 * A world of its own with the same state, pending changes included. Bytes are shared copy on write.
 *
 * @internal
 */
export const copyWorld = (world: DiskWorld): { readonly world: DiskWorld; readonly nodes: Map<number, DiskNode> } => {
  const nodes = new Map<number, DiskNode>()
  const copy = (node: DiskNode): DiskNode => node.kind === "file" ? copyFile(node) : copyDirectory(node)
  const copyFile = (file: FileNode): DiskNode => {
    const known = nodes.get(file.id)
    if (known !== undefined) return known
    const twin: FileNode = {
      ...file,
      current: file.current.fork(),
      durable: file.durable.fork(),
      pending: file.pending.slice()
    }
    nodes.set(file.id, twin)
    return twin
  }
  const copyDirectory = (directory: DirectoryNode): DirectoryNode => {
    const known = nodes.get(directory.id)
    if (known?.kind === "directory") return known
    const twin: DirectoryNode = { ...directory, entries: new Map(), durable: new Map() }
    nodes.set(directory.id, twin)
    for (const [name, node] of directory.entries) twin.entries.set(name, copy(node))
    for (const [name, node] of directory.durable) twin.durable.set(name, copy(node))
    return twin
  }
  const twin = new DiskWorld(copyDirectory(world.root), world.sequence, world.nextId)
  twin.pendingNames = world.pendingNames.map((pending) => ({
    ...pending,
    edits: pending.edits.map((edit) => ({
      directory: copyDirectory(edit.directory),
      name: edit.name,
      node: edit.node === undefined ? undefined : copy(edit.node)
    })),
    syncedIn: new Set(Array.from(pending.syncedIn, copyDirectory))
  }))
  return { world: twin, nodes }
}

/**
 * Makes a recorded change again. A file that had lost its last name before the recording began is not known here and
 * cannot come back by any crash: its changes only count.
 *
 * @internal
 */
export const applyEvent = (world: DiskWorld, nodes: Map<number, DiskNode>, event: TraceEvent): void => {
  const directory = (id: number): DirectoryNode => {
    const node = nodes.get(id)
    invariant(node?.kind === "directory", "a recorded change names a directory that exists")
    return node
  }
  const file = (id: number): FileNode | undefined => {
    const node = nodes.get(id)
    return node?.kind === "file" ? node : undefined
  }
  switch (event.kind) {
    case "create":
    case "makeDirectory": {
      const parent = directory(event.directory)
      const node = event.kind === "create"
        ? world.createFile(parent, event.name)
        : world.makeDirectory(parent, event.name)
      invariant(node.id === event.inode, "a replayed creation gives the same inode")
      nodes.set(node.id, node)
      return
    }
    case "remove":
      return world.remove(directory(event.directory), event.name)
    case "rename":
      return world.rename(directory(event.directory), event.name, directory(event.toDirectory), event.toName)
    case "write": {
      const node = file(event.inode)
      if (node === undefined) world.sequence++
      else world.write(node, event.position, event.bytes)
      return
    }
    case "truncate": {
      const node = file(event.inode)
      if (node === undefined) world.sequence++
      else world.truncate(node, event.size)
      return
    }
    case "syncData":
    case "syncFull": {
      const node = file(event.inode)
      if (node !== undefined) world.sync(node, event.kind === "syncFull", event.upTo)
      return
    }
    case "lostSync": {
      const node = file(event.inode)
      if (node !== undefined) world.loseDirtyPages(node, event.upTo)
      return
    }
    case "syncDirectory":
      return world.syncDirectory(directory(event.inode), event.upTo)
  }
}
