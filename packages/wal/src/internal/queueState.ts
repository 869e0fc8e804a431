/**
 * The state of all queues in a log: what is durable about their elements.
 *
 * 1. An element is never changed, it is replaced: who holds one (a snapshot that is being written) holds what was.
 * 2. A command about an element that is not there changes nothing.
 */
import type { QueueCommand, QueueElement } from "../PersistedQueueFormat.ts"
import type { LoggedState } from "./loggedState.ts"

/** @internal */
export interface StoredElement extends QueueElement {
  /** The order in which elements became ready to be taken. */
  readonly order: number
  readonly itemBytes: number
}

/** @internal */
export class QueueState implements LoggedState<QueueCommand> {
  /** Told about every element that waits to be claimed. */
  onPending: (element: StoredElement) => void = () => {}
  private readonly queues = new Map<string, Map<string, StoredElement>>()
  private bytes = 0
  private nextOrder = 0

  get liveBytes(): number {
    return this.bytes
  }

  get(queue: string, id: string): StoredElement | undefined {
    return this.queues.get(queue)?.get(id)
  }

  *elements(): Generator<StoredElement> {
    for (const queue of this.queues.values()) yield* queue.values()
  }

  readonly apply = (command: QueueCommand, itemBytes: number): void => {
    switch (command.type) {
      case "put": {
        const { id, queue } = command.element
        if (this.get(queue, id) === undefined) this.store({ ...command.element, order: this.nextOrder++, itemBytes })
        return
      }
      case "cleanup":
        return this.cleanup(command.completedUpTo, command.failedUpTo)
      default: {
        const element = this.get(command.queue, command.id)
        if (element !== undefined) this.change(element, command)
      }
    }
  }

  private change(
    element: StoredElement,
    command: Exclude<QueueCommand, { readonly type: "put" | "cleanup" }>
  ): void {
    switch (command.type) {
      case "claim":
        return this.store({
          ...element,
          state: "processing",
          attempts: element.attempts + 1,
          maxAttempts: command.maxAttempts
        })
      case "complete":
        // The id of the caller's own is remembered, that of another element never comes again.
        return element.isCustomId
          ? this.store({ ...element, state: "completed", changedAt: command.at, payload: undefined })
          : this.delete(element)
      case "fail":
        return this.store({ ...element, state: "failed", changedAt: command.at })
      case "retry":
        return this.store({ ...element, state: "pending", visibleAt: command.visibleAt, order: this.nextOrder++ })
      case "release":
        return this.store({
          ...element,
          state: "pending",
          attempts: Math.max(0, element.attempts - 1),
          order: this.nextOrder++
        })
    }
  }

  private cleanup(completedUpTo: number, failedUpTo: number): void {
    for (const element of this.elements()) {
      const { changedAt, state } = element
      if (state === "completed" && changedAt <= completedUpTo || state === "failed" && changedAt <= failedUpTo) {
        this.delete(element)
      }
    }
  }

  /**
   * After a crash: whoever was processing is gone, and what he had claimed is ready again where it stood before, with
   * the attempt counted. Answers the elements that had no attempt left.
   */
  releaseProcessing(): ReadonlyArray<StoredElement> {
    const exhausted: Array<StoredElement> = []
    for (const element of this.elements()) {
      if (element.state !== "processing") continue
      if (element.attempts >= element.maxAttempts) exhausted.push(element)
      else this.store({ ...element, state: "pending" })
    }
    return exhausted
  }

  private store(element: StoredElement): void {
    const elements = this.queues.get(element.queue) ?? new Map<string, StoredElement>()
    this.queues.set(element.queue, elements)
    const before = elements.get(element.id)
    const stored = element.payload === undefined ? withoutPayload(element, before) : element
    elements.set(element.id, stored)
    this.bytes += stored.itemBytes - (before?.itemBytes ?? 0)
    if (stored.state === "pending") this.onPending(stored)
  }

  private delete(element: StoredElement): void {
    const elements = this.queues.get(element.queue)
    elements?.delete(element.id)
    this.bytes -= element.itemBytes
    if (elements?.size === 0) this.queues.delete(element.queue)
  }

  /** In the order in which they became ready, so that they are put back in that order. */
  readonly capture = (): ReadonlyArray<QueueCommand> =>
    Array.from(this.elements())
      .sort((a, b) => a.order - b.order)
      .map((element) => ({ type: "put", element }))
}

/** About what is left of an item when its payload goes. */
const withoutPayload = (element: StoredElement, before: StoredElement | undefined): StoredElement =>
  before?.payload === undefined ? element : { ...element, itemBytes: element.itemBytes - before.payload.length }
