# %% [markdown]
# # what_bn_does

# %%
print(1)
